"""Training methods: which macro, which chip, which noise; and the model as it was afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from bitline import presets
from bitline.converters import Adc, FixedRange
from bitline.devices import Cell, GaussianCell
from bitline.encode import TwosComplementWeight, UnsignedInput
from bitline.evaluate import testing_chip as die_under_test
from bitline.macro import Chip, Macro, ideal
from bitline.macro.curves import Compressive, Polynomial
from bitline.macro.kinds import CurveColumn
from bitline.methods import AnyMethod, ErrorAware, Gaussian, Method, Plain, Progress, Qat, machine, training_chip
from bitline.networks import Digits
from bitline.nn import calibrate, convert, layers, on_chip, silicon
from bitline.nn.cim import CimLayer
from bitline.train import TrainConfig, train

X = torch.rand(96, 20, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 10).long()
INDEX = torch.arange(96) * 2 + 1
SMALL = TrainConfig(steps=5, lr=0.01)


def macro(**changes: Any) -> Macro:
    """12 rows on at once, so two row groups of 20 inputs; two digits of inputs, four bits of weights."""
    config: dict[str, Any] = {
        "name": "m",
        "rows": 12,
        "columns": 64,
        "inputs": UnsignedInput(bits=4, digit_bits=2),
        "weights": TwosComplementWeight(bits=4),
        "column": CurveColumn(sigma=Polynomial(coefficients=(0.6,)), offset_sigma=0.3),
        "converter": Adc(bits=5, range=FixedRange(low=0, high=31)),
    }
    return Macro.model_validate(config | changes)


def batches(size: int = 32) -> Any:
    return lambda epoch: [tuple(part[i : i + size] for part in (X, Y, INDEX)) for i in range(0, len(X), size)]


def model(design: Macro | None = None) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2))
    return calibrate(convert(net, design or macro()), [X])


def first(net: nn.Module) -> CimLayer:
    return layers(net)["0"]


class Spy:
    """Records, at each forward pass of the first layer, what it computes with."""

    def __init__(self, net: nn.Module) -> None:
        self.macros: list[Macro] = []
        self.chips: list[Chip] = []
        self.reads: list[int] = []
        self.samples: list[list[int]] = []
        self.noise: list[float | None] = []
        first(net).register_forward_pre_hook(self)

    def __call__(self, layer: nn.Module, _: Any) -> None:
        assert isinstance(layer, CimLayer)
        shared = layer.silicon
        self.macros.append(layer.macro)
        self.chips.append(shared.chip)
        self.reads.append(shared.read)
        self.samples.append([] if shared.samples is None else shared.samples.tolist())
        self.noise.append(layer.added_noise)


def spied(method: Method, **config: Any) -> tuple[nn.Module, Spy]:
    net = model()
    spy = Spy(net)
    train(net, batches(), config=SMALL.model_copy(update=config), method=method, progress=False)
    return net, spy


# -------------------------------------------------------------------------------------------- which macro, which chip


def test_qat_trains_on_the_ideal_macro() -> None:
    net, spy = spied(Qat())
    assert spy.macros == [ideal(macro())] * 5
    assert len(set(spy.chips)) == 1
    assert first(net).macro == macro()  # and it is back on the real one


def test_error_aware_training_meets_a_fresh_training_chip_each_step() -> None:
    _, spy = spied(ErrorAware(seed=3))
    assert spy.macros == [macro()] * 5
    assert spy.chips == [training_chip(3, step) for step in range(5)]
    assert not {chip.seed for chip in spy.chips} & {die_under_test(seed, 0).seed for seed in range(20)}
    assert spy.reads == list(range(5))
    assert spy.samples[0] == INDEX[:32].tolist()
    assert spy.samples[4] == INDEX[32:64].tolist()  # the second batch of the second epoch


def test_all_batches_of_a_step_meet_one_chip() -> None:
    _, spy = spied(ErrorAware(), accumulate=3, steps=2)
    assert spy.chips == [training_chip(0, step) for step in (0, 0, 0, 1, 1, 1)]
    assert spy.reads == [0, 0, 0, 1, 1, 1]


def test_the_chip_reaches_the_weights() -> None:
    """Two steps on different dies give different losses on one batch; the same die gives the same."""
    net = model(macro(cell=Cell(errors=(GaussianCell(sigma=0.2),))))
    method = ErrorAware()
    method.begin(net, batches())

    def loss(step: int) -> float:
        method.before_step(net, Progress(step, 3))
        return float(method.loss(net, X, Y, INDEX, nn.functional.cross_entropy).detach())

    losses = [loss(step) for step in (0, 1, 2, 0)]
    assert losses[0] == losses[3]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("method", [Qat(), ErrorAware(), Gaussian(), Gaussian(match="rms", chips=2)])
def test_the_model_is_usable_afterwards(method: Method) -> None:
    net, spy = spied(method)
    shared = silicon(net)
    assert all(layer.macro == layer.design for layer in layers(net).values())
    assert all(layer.added_noise is None and layer.probe is None for layer in layers(net).values())
    assert (shared.samples, shared.read) == (None, 0)
    assert net.training
    net.eval()(X[:7])  # any number of samples
    assert len(spy.macros) >= 5


def test_the_model_can_be_read_between_steps() -> None:
    """A validation function may pass any batch; it meets no indices of the last step."""
    net = model()
    seen = []
    train(
        net,
        batches(),
        config=TrainConfig(epochs=2),
        method=ErrorAware(),
        progress=False,
        validate=lambda net: seen.append(float(net(X[:5]).sum())) or {"x": 0.0},  # type: ignore[func-returns-value]
    )
    assert len(seen) == 2


def test_an_interrupted_method_also_ends() -> None:
    net = model()

    def broken(epoch: int) -> Any:
        yield X[:4] * float("inf"), Y[:4], INDEX[:4]

    with pytest.raises((ValueError, ArithmeticError)):
        train(net, broken, config=SMALL, method=Qat(), progress=False)
    assert first(net).macro == macro()


def test_methods_are_chosen_by_kind() -> None:
    kind: TypeAdapter[Any] = TypeAdapter(AnyMethod)
    for method in (Qat(seed=1), ErrorAware(), Gaussian(match="rms", chips=2)):
        assert kind.validate_python(method.model_dump()) == method
        assert isinstance(method, Method)
        assert isinstance(method.title, str)
    titles = [method.title for method in (Plain(), Qat(), ErrorAware(), Gaussian(), Gaussian(match="rms"))]
    assert len(set(titles)) == 5
    with pytest.raises(ValidationError, match="'qat', 'error_aware', 'gaussian'"):
        kind.validate_python({"kind": "gausian"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        kind.validate_python({"kind": "qat", "sigma": 1})


# ----------------------------------------------------------------------------------------------------------- gaussian


def monte_carlo(net: nn.Module, chips: int, step: int = 1, last: int = 31) -> tuple[float, float]:
    """Mean and variance (counts) of code - ideal code of the first layer, from its macro's definition alone."""
    layer = first(net)
    codes = layer.input_quantizer(X)[0].detach()  # type: ignore[misc]
    weights = layer.weight_quantizer(layer.weight)[0].detach().long()  # type: ignore[misc]
    generator = torch.Generator().manual_seed(11)
    errors = []
    groups = (slice(0, 12), slice(12, 20))
    mean = layer.macro.column.mean  # type: ignore[union-attr]
    for _ in range(chips):
        for rows in groups:
            for digit in range(2):
                x = (codes[:, rows].long() >> (2 * digit)) & 3
                for bit in range(4):
                    u = (x.float() @ ((weights[:, rows] >> bit) & 1).float().T).double()
                    offset = 0.3 * torch.randn(1, u.shape[1], generator=generator)
                    value = u + offset
                    if mean is not None:
                        value = mean.at(value.clamp(min=0), 36.0)
                    value = value + 0.6 * torch.randn(u.shape, generator=generator)
                    code = (value / step + 0.5).floor().clamp(0, last)
                    errors.append(step * (code - (u / step + 0.5).floor().clamp(0, last)))
    error = torch.cat(errors)
    return float(error.mean()), float(error.var(correction=0))


CURVED = macro(
    column=CurveColumn(
        mean=Compressive(compression=0.5, dead_zone=0.8), sigma=Polynomial(coefficients=(0.6,)), offset_sigma=0.3
    )
)  # fmt: skip


def test_the_measured_variance_is_that_of_a_simulation() -> None:
    """200 dies of 8 outputs; both sides scatter by about 1 %."""
    net = model()
    every = lambda epoch: [(X, Y, INDEX)] * 200  # noqa: E731
    size = Gaussian(chips=200).measured(net, every)["0"]
    _, variance = monte_carlo(net, 200)
    assert size**2 == pytest.approx(variance, rel=0.03)


def test_rms_counts_the_bias() -> None:
    net = model(CURVED)
    every = lambda epoch: [(X, Y, INDEX)] * 50  # noqa: E731
    variance = Gaussian(chips=50).measured(net, every)["0"] ** 2
    rms = Gaussian(chips=50, match="rms").measured(net, every)["0"] ** 2
    mean, simulated = monte_carlo(net, 50)
    assert rms > 1.3 * variance
    assert variance == pytest.approx(simulated, rel=0.06)
    assert rms == pytest.approx(simulated + mean**2, rel=0.06)


def test_sizes_are_in_counts() -> None:
    """A converter whose steps are two counts: the error in codes is scaled by its step."""
    coarse = model(macro(converter=Adc(bits=4, range=FixedRange(low=0, high=30))))
    assert first(coarse).counts_per_code == 2
    every = lambda epoch: [(X, Y, INDEX)] * 50  # noqa: E731
    size = Gaussian(chips=50).measured(coarse, every)["0"]
    assert size**2 == pytest.approx(monte_carlo(coarse, 50, step=2, last=15)[1], rel=0.06)


def test_a_layer_without_converter_gets_no_noise() -> None:
    net = model(macro(converter=None, column=None, cell=Cell(errors=(GaussianCell(sigma=0.1),))))
    assert Gaussian().measured(net, batches()) == {}


def test_added_noise_is_the_sum_over_conversions() -> None:
    """Zero mean; variance size² · Σ radix² of digits · Σ radix² of bits · row groups, in counts; fresh each read."""
    net = model(ideal(macro())).eval()
    layer = first(net)
    y: dict[str, Tensor] = {}
    with torch.no_grad():
        clean = layer(X)
        layer.added_noise = 0.5
        x = X.repeat(40, 1)
        silicon(net).begin(torch.arange(len(x)), 0)
        y["a"] = layer(x) - clean.repeat(40, 1)
        silicon(net).begin(torch.arange(len(x)), 0)
        y["again"] = layer(x) - clean.repeat(40, 1)
        silicon(net).begin(torch.arange(len(x)), 1)
        y["b"] = layer(x) - clean.repeat(40, 1)
    with torch.no_grad():
        scale = float(layer.input_quantizer(X)[1] * layer.weight_quantizer(layer.weight)[1])  # type: ignore[misc]
    power = (1 + 16) * (1 + 4 + 16 + 64) * 2  # digits 1, 4; bits 1, 2, 4, -8; 20 inputs in two groups of 12 rows
    counts = y["a"] / scale
    n = counts.numel()
    assert float(counts.var()) == pytest.approx(0.25 * power, rel=0.04)  # standard error of a variance: 0.8 %
    assert abs(float(counts.mean())) < 4 * (0.25 * power / n) ** 0.5
    assert torch.equal(y["a"], y["again"])
    together = torch.stack([y["a"].flatten(), y["b"].flatten()])
    assert abs(float(torch.corrcoef(together)[0, 1])) < 4 / n**0.5
    across = torch.corrcoef(counts.T)
    assert float((across - torch.eye(8)).abs().max()) < 5 / len(x) ** 0.5


def test_gaussian_training_adds_what_was_measured_to_the_ideal_macro() -> None:
    net = model()
    wanted = Gaussian().measured(net, batches())
    assert set(wanted) == {"0", "2"}
    spy = Spy(net)
    train(net, batches(), config=SMALL, method=Gaussian(), progress=False)
    assert spy.macros[-5:] == [ideal(macro())] * 5
    assert spy.noise[-5:] == [wanted["0"]] * 5
    measuring = len(spy.macros) - 5
    assert spy.chips[:measuring] == [training_chip(0, number, "before") for number in range(measuring)]


def test_a_finished_run_is_loaded_without_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> nn.Module:
        net = model()
        train(net, batches(), config=SMALL, method=Gaussian(), out=tmp_path, progress=False)
        return net.eval()

    def unasked(*_: Any) -> dict[str, float]:
        raise AssertionError("measured again")

    once = trained()
    monkeypatch.setattr(Gaussian, "measured", unasked)
    again = trained()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in once.state_dict().items())
    for net in (once, again):
        assert first(net).added_noise is None
        assert first(net).macro == macro()
        on_chip(net, Chip(5, 5))
    assert torch.equal(once(X), again(X))
    latest = tmp_path / "latest.json"  # an unfinished one is measured, for what is left to train
    latest.write_text(latest.read_text().replace('"done": true', '"done": false'))
    with pytest.raises(AssertionError, match="measured again"):
        trained()


def test_measuring_leaves_the_model() -> None:
    net = model().eval()
    on_chip(net, Chip(5, 5))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    y = net(X)
    Gaussian().measured(net, batches())
    assert silicon(net).chip == Chip(5, 5)
    assert silicon(net).samples is None
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training
    assert torch.equal(net(X), y)


def test_a_network_on_a_macro_is_trained_on_fresh_chips_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    chips: list[int] = []
    monkeypatch.setattr(machine, "on_chip", lambda model, chip: chips.append(chip.number))
    model = calibrate(
        convert(Digits(channels=(2, 2, 2)).build(), presets.load("generic-8t-sram")), [torch.rand(4, 1, 8, 8)]
    )
    batch = (torch.rand(4, 1, 8, 8), torch.arange(4), torch.arange(4))
    train(model, lambda epoch: [batch] * 2, config=TrainConfig(steps=2, lr=1e-3), progress=False)
    assert chips[:2] == [0, 1]
    with pytest.raises(ValueError, match="one die only"):
        train(model, lambda epoch: [batch], config=TrainConfig(steps=1, lr=1e-3), method=Plain(), progress=False)


def test_gaussian_refuses_a_macro_without_conversions() -> None:
    macro = Macro.model_validate(
        {"name": "m", "rows": 8, "columns": 8, "variation": {"kind": "lognormal", "sigma": 0.1}}
    )
    model = convert(Digits(channels=(2, 2, 2)).build(), macro)
    batch = (torch.rand(4, 1, 8, 8), torch.arange(4), torch.arange(4))
    with pytest.raises(ValueError, match="sizes its noise by a converter, and the macro has none"):
        Gaussian().begin(model, lambda epoch: [batch])
