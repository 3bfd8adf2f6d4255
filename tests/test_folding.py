"""Folding of batch norms: exact in eval mode, legal places only, and what is said where nothing can be done."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitline.macro import Macro
from bitline.networks import Digits, LeNet5, Network, ResNet, Vgg, Vit, WideResNet
from bitline.nn.calibrate import calibrate
from bitline.nn.convert import convert
from bitline.nn.folding import fold_batch_norm
from bitline.nn.model import layers
from bitline.nn.norms import NORMS


def _trained(net: nn.Module, seed: int = 0) -> nn.Module:
    """Norms with statistics and parameters that do something."""
    draw = torch.Generator().manual_seed(seed)
    for norm in net.modules():
        if isinstance(norm, tuple(NORMS)):
            for tensor, low, high in ((norm.running_mean, -0.5, 0.5), (norm.running_var, 0.5, 2.0)):
                if tensor is not None:
                    tensor.copy_(torch.rand(tensor.shape, generator=draw) * (high - low) + low)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5, generator=draw)
                nn.init.uniform_(norm.bias, -0.5, 0.5, generator=draw)
    return net.eval()


def _norms(net: nn.Module) -> int:
    return sum(type(module) in NORMS for module in net.modules())


@pytest.mark.parametrize(
    ("network", "shape", "left"),
    [
        (ResNet(depth=20), (3, 32, 32), 0),
        (Vgg(depth=8), (3, 32, 32), 0),
        (Digits(), (1, 8, 8), 0),
        (WideResNet(depth=10, widen=1), (3, 32, 32), 4),  # of 7: bn2 of each block folds
    ],
    ids=lambda value: value.kind if isinstance(value, Network) else None,
)
def test_equal_in_eval_mode(network: Network, shape: tuple[int, ...], left: int) -> None:
    net = _trained(network.build()).double()
    x = torch.randn(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        wanted = net(x)
        names, norms = [name for name, _ in net.named_modules()], _norms(net)
        assert fold_batch_norm(net) is net
        assert torch.allclose(net(x), wanted, rtol=1e-9, atol=1e-9)
        net = net.float()
        assert torch.allclose(net(x.float()), wanted.float(), atol=1e-5)
    assert [name for name, _ in net.named_modules()] == names
    assert _norms(net) == left < norms


class _Net(nn.Module):
    """``kind`` says what else happens to the output of the layer."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.bn = nn.BatchNorm2d(4, affine=kind != "plain", track_running_stats=kind != "batch")
        self.again = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 1)
        self.end = nn.BatchNorm2d(4)
        self.twin = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        if kind == "tied":
            self.twin.weight = self.conv.weight

    def forward(self, x: Tensor, extra: bool = False) -> Tensor:
        y = self.conv(x)
        z = self.bn(y)
        if self.kind == "elsewhere":
            z = z + y
        if self.kind == "twice":
            z = z + self.again(self.conv(-x))
        if self.kind == "norm twice":
            z = self.bn(z)
        if self.kind == "read":
            z = z * self.conv.weight.mean() + x.mean()
        if self.kind == "tied":
            z = z + self.twin(x)
        if extra:
            z = z + 1
        return self.end(self.last(torch.relu(z)))


@pytest.mark.parametrize("kind", ["", "plain", "elsewhere", "twice", "norm twice", "read", "tied", "batch"])
def test_only_where_legal(kind: str) -> None:
    net = _trained(_Net(kind))
    x = torch.randn(2, 2, 5, 5)
    with torch.no_grad():
        wanted = net(x)
        fold_batch_norm(net)
        assert torch.allclose(net(x), wanted, atol=1e-5)
    assert isinstance(net.end, nn.Identity)
    assert isinstance(net.bn, nn.Identity) == (kind in ("", "plain"))


def test_linear_and_other_dimensions() -> None:
    net = nn.Sequential(
        *(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.Unflatten(2, (3, 1, 1)), nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4)),
        *(nn.Flatten(), nn.Linear(12, 5, bias=False), nn.BatchNorm1d(5), nn.Unflatten(1, (1, 5)), nn.Linear(5, 6)),
        *(nn.BatchNorm1d(1), nn.Dropout(), nn.BatchNorm1d(1)),
    )
    _trained(net).train()
    x = torch.randn(3, 2, 4)
    weight = net[6].weight
    fold_batch_norm(net)
    assert all(module.training for module in net.modules())
    assert [type(net[i]) in NORMS for i in (1, 4, 7, 10, 12)] == [False, False, False, True, True]
    assert net[6].weight is weight
    assert net[6].bias.requires_grad
    net.eval()(x).sum().backward()
    assert weight.grad is not None


def test_hooked_and_parametrized_layers_stay() -> None:
    net = nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(3, 3), nn.BatchNorm1d(3))))
    nn.utils.parametrizations.weight_norm(net[0])
    net[2].register_forward_hook(lambda *_: None)
    fold_batch_norm(_trained(net))
    assert [type(module) in NORMS for module in net] == [False, True, False, True, False, False]


def test_nothing_to_fold() -> None:
    for network in (LeNet5(), Vit(width=12, depth=1, heads=2, hidden=8)):
        with pytest.raises(ValueError, match=r"no batch norm directly after .* use fold_bn=False"):
            fold_batch_norm(network.build())


class _Untraceable(_Net):
    def forward(self, x: Tensor, extra: bool = False) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


def test_untraceable() -> None:
    net = _Untraceable()
    with pytest.raises(ValueError, match=r"_Untraceable cannot be traced .*TraceError.*control flow.*fold_bn=False"):
        fold_batch_norm(net)
    assert net.training
    assert _norms(net) == 3


def test_convert_folds_first() -> None:
    net, x = _trained(ResNet(depth=20).build()), torch.randn(2, 3, 32, 32)
    macro = Macro(name="ideal", rows=64, columns=64)
    model = convert(net, macro, fold_bn=True)
    assert _norms(model) == 0 < _norms(net)
    assert all(layer.bias is not None for layer in layers(model).values())
    with torch.no_grad():
        assert torch.allclose(model(x), net(x), atol=1e-5)
    weight = net.get_parameter("conv1.weight").clone()
    with pytest.raises(ValueError, match="zzz"):
        convert(net, macro, fold_bn=True, inplace=True, skip=["zzz"])
    assert _norms(net) == 21
    assert torch.equal(net.get_parameter("conv1.weight"), weight)


def test_calibration_leaves_frozen_norms_frozen() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    net[1].eval()
    model = calibrate(convert(net, Macro(name="ideal", rows=64, columns=64)), [torch.randn(3, 4)])
    assert [module.training for module in model.modules()] == [True, True, False]
