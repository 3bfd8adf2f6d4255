"""Networks with norms, sums and ReLUs joined to the layers before them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitline.macro import Chip, Macro
from bitline.networks import ResNet
from bitline.nn import calibrate, convert, on_chip, silicon, streamlined

MACRO = Macro.model_validate(
    {
        "name": "noisy",
        "rows": 64,
        "columns": 64,
        "inputs": {"kind": "unsigned", "bits": 4},
        "weights": {"kind": "differential", "bits": 4, "cell_bits": 3},
        "cell": {"errors": [{"kind": "gaussian", "sigma": 0.03}]},
        "converter": {"bits": 6, "noise": 0.3, "range": {"kind": "calibrated"}},
    }
)


class Net(nn.Module):
    """A convolution with bias and norm, a residual sum, something broadcast, a norm after a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20)
        self.two, self.norm2 = nn.Conv2d(20, 20, 3, padding=1, groups=2), nn.BatchNorm2d(20)
        self.three, self.norm3 = nn.Conv2d(20, 16, 3, stride=2), nn.BatchNorm2d(16)
        self.fc, self.norm4 = nn.Linear(16, 10), nn.BatchNorm1d(10)
        self.offset = nn.Parameter(torch.randn(16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.one(x)))
        x = torch.relu(self.norm2(self.two(x)) + x)
        x = torch.relu(self.offset + self.norm3(self.three(x)))
        y: Tensor = self.norm4(self.fc(x.mean((2, 3))))
        return y


def placed(net: nn.Module, plan: str | None = None) -> nn.Module:
    """On a die, norms with statistics of their own."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, -1, 2)
    images = torch.rand(6, 3, 9, 11)
    model = calibrate(convert(net, MACRO, plan=plan), [images]).eval()
    on_chip(model, Chip(2, 5))
    return model


def read(model: nn.Module, x: Tensor) -> Tensor:
    """A forward pass of which each has the same noise."""
    silicon(model).begin(torch.arange(len(x)))
    y: Tensor = model(x)
    return y


@torch.no_grad()
def test_computes_the_same() -> None:
    model, x = placed(Net()), torch.rand(5, 3, 9, 11)
    joined = streamlined(model)
    assert sum(type(m).__name__ == "Tailed" for m in joined.modules()) == 4
    assert joined is streamlined(model)
    torch.testing.assert_close(read(joined, x), read(model, x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_plans_agree_bit_for_bit() -> None:
    x, net = torch.rand(5, 3, 9, 11), Net()
    fused, reference = (placed(net, plan) for plan in ("fused", "reference"))
    assert torch.equal(read(streamlined(fused), x), read(streamlined(reference), x))


def test_gradients_and_training_run_module_by_module() -> None:
    model, x = placed(Net()), torch.rand(5, 3, 9, 11)
    model.train()
    before = model.norm1.num_batches_tracked.clone()  # type: ignore[operator, union-attr]
    streamlined(model)(x).sum().backward()
    assert model.norm1.num_batches_tracked == before + 1  # type: ignore[operator, union-attr]
    assert model.one.weight.grad is not None  # type: ignore[union-attr]


@torch.no_grad()
def test_hooks_see_modules() -> None:
    model, seen = placed(Net()), []
    hook = model.get_submodule("two").register_forward_hook(lambda _, __, y: seen.append(y.shape))
    assert streamlined(model) is model
    hook.remove()
    assert streamlined(model) is not model


def test_what_cannot_be_traced_is_left_alone() -> None:
    class Branching(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    model = placed(Branching())
    assert streamlined(model) is model


@torch.no_grad()
@pytest.mark.parametrize("images", [1, 3])
def test_residual_network(images: int) -> None:
    net = ResNet(depth=20).build().eval()
    x = torch.rand(images, 3, 32, 32)
    model = calibrate(convert(net, MACRO, skip=["conv1", "fc"]), [x]).eval()
    torch.testing.assert_close(read(streamlined(model), x), read(model, x), rtol=2e-2, atol=2e-2)
