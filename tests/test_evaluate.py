"""Statistics against closed forms, the same chips, images and reads for all, and causes that are found."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitline import draws
from bitline.converters import Adc, FixedRange
from bitline.devices import Cell, GaussianCell
from bitline.encode import TwosComplementWeight, UnsignedInput, UnsignedWeight
from bitline.evaluate import (
    Difference,
    Result,
    answers,
    difference,
    evaluate,
    explanation,
    interval,
    layer_reports,
    over_chips,
    recalibrate,
    recalibrated,
    row,
    sensitivity,
    statistics,
)
from bitline.evaluate import testing_chip as die
from bitline.evaluate.montecarlo import BLOCK, blocks
from bitline.files import write_atomic
from bitline.macro import Chip, Macro, ideal
from bitline.macro.curves import Compressive, Polynomial
from bitline.macro.kinds import CurveColumn, TableColumn
from bitline.methods import training_chip
from bitline.networks import Digits
from bitline.nn import Lsq, calibrate, convert, layers, on_chip, silicon, use
from contracts import table

IMAGES = 150


def macro(name: str = "sram", **changes: Any) -> Macro:
    """64 rows, 4-bit inputs bit by bit, 4-bit weights a bit a column; a converter that loses nothing."""
    config: dict[str, Any] = {
        "name": name,
        "rows": 64,
        "columns": 64,
        "inputs": UnsignedInput(bits=4),
        "weights": TwosComplementWeight(bits=4),
        "converter": Adc(bits=7, range=FixedRange(low=0, high=127)),
    }
    return Macro.model_validate(config | changes)


NOISE = CurveColumn(sigma=Polynomial(coefficients=(0.2,)), offset_sigma=0.1)
NOISY = macro("noisy", column=NOISE)


def images(count: int = IMAGES) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy prototypes of ten classes, learnt by nobody but easy: (x, y, index)."""
    generator = torch.Generator().manual_seed(7)
    prototypes = torch.rand(10, 1, 8, 8, generator=generator)
    y = torch.arange(count) % 10
    x = (prototypes[y] + 0.1 * torch.randn(count, 1, 8, 8, generator=generator)).clamp(0, 1)
    return x, y, torch.arange(count) * 3 + 5


DATA = images()


def source(size: int = 50, data: tuple[Tensor, Tensor, Tensor] = DATA) -> Any:
    return lambda: [tuple(part[i : i + size] for part in data) for i in range(0, len(data[1]), size)]


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A float network that knows the images."""
    net = Digits(channels=(4, 4, 8)).build(seed=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    x, y, _ = images(300)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def on(net: nn.Module, design: Macro, **options: Any) -> nn.Module:
    return calibrate(convert(net, design, **options), [images(300)[0]]).eval()


@pytest.fixture(scope="module")
def noisy(trained: nn.Module) -> nn.Module:
    return on(trained, NOISY)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(model: nn.Module, before: dict[str, Tensor]) -> bool:
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)


# -------------------------------------------------------------------------------------------------------- statistics


def test_the_interval_covers_the_truth_in_simulated_two_way_data() -> None:
    """Chip effect σ_c, image effect σ_i, the rest σ_e: the 95 % interval holds the true mean."""
    chips, count, sets = 20, 60, 200
    sigma_c, sigma_i, sigma_e = 2.0, 4.0, 6.0
    generator = torch.Generator().manual_seed(3)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    value = sigma_c * normal(sets, chips, 1) + sigma_i * normal(sets, 1, count) + sigma_e * normal(sets, chips, count)
    # What `interval` does, on all sets at once: the same resampling counts for each of them.
    part = torch.arange(statistics.REPLICATES)
    rows = statistics._resampled(chips, 0, "chips", part)
    columns = statistics._resampled(count, 0, "images", part)
    means = torch.einsum("rc,sci,ri->sr", rows, value, columns) / (chips * count)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=1)
    first = interval(value[0])
    assert first == pytest.approx((float(low[0]), float(high[0])), abs=1e-3)
    covered = float(((low <= 0) & (high >= 0)).double().mean())
    assert 0.90 <= covered <= 0.99
    closed = 2 * 1.96 * math.sqrt(sigma_c**2 / chips + sigma_i**2 / count + sigma_e**2 / (chips * count))
    assert float((high - low).mean()) == pytest.approx(closed, rel=0.15)


def test_the_interval_of_one_chip_is_that_of_its_images() -> None:
    right = (torch.rand(1, 400, generator=torch.Generator().manual_seed(0)) < 0.8).double() * 100
    low, high = interval(right)
    p = float(right.mean()) / 100
    assert (high - low) == pytest.approx(2 * 196 * math.sqrt(p * (1 - p) / 400), rel=0.1)
    assert low < 100 * p < high
    assert interval(right) == interval(right)
    assert interval(right) != interval(right, seed=1)


def test_intervals_do_not_hold_all_replicates_at_once() -> None:
    assert len(statistics._resampled(7, 0, "images", torch.arange(5))) == 5
    whole = statistics._resampled(7, 0, "images", torch.arange(statistics.REPLICATES))
    assert torch.equal(whole[200:203], statistics._resampled(7, 0, "images", torch.arange(200, 203)))
    assert (whole.sum(1) == 7).all()
    assert float(whole.var()) == pytest.approx(6 / 7, rel=0.05)  # multinomial


def matrix(chips: int, accuracy: float = 0.9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(chips, 200, generator=generator) < accuracy).to(torch.uint8)


def test_a_row_counts_worst_yield_and_percentile() -> None:
    right = torch.zeros(20, 100, dtype=torch.uint8)
    for chip in range(20):
        right[chip, : 80 + chip] = 1  # accuracies 80 … 99 %
    found = row(right, "m", "x", target=90.0, steps=7, condition="hot")
    assert found.per_chip == tuple(float(80 + chip) for chip in range(20))
    assert (found.mean, found.worst, found.chips, found.images) == (89.5, 80.0, 20, 100)
    assert found.p5 == pytest.approx(80.95)  # linear between the worst and the second worst of 20
    assert found.yield_ == 50.0
    assert (found.target, found.steps, found.condition) == (90.0, 7, "hot")
    assert found.ci95[0] < found.mean < found.ci95[1]


def test_the_percentile_waits_for_twenty_chips() -> None:
    assert row(matrix(19), "m", "x").p5 is None
    assert row(matrix(20), "m", "x").p5 is not None
    assert row(matrix(3), "m", "x").yield_ is None


def test_paired_differences_are_clear_of_zero_when_there_is_one() -> None:
    generator = torch.Generator().manual_seed(0)
    hard = torch.rand(1, 300, generator=generator)  # the same hard images for both
    chip = 0.05 * torch.randn(10, 1, generator=generator)  # and the same bad chips
    noise = lambda: torch.rand(10, 300, generator=generator) * 0.1  # noqa: E731
    worse = (hard + chip + noise() < 0.80).to(torch.uint8)
    better = (hard + chip + noise() < 0.84).to(torch.uint8)
    twin = (hard + chip + noise() < 0.80).to(torch.uint8)
    clear = difference(better, worse, ("better", "worse"))
    assert clear.ci95[0] > 0
    assert clear.mean == pytest.approx(row(better, "b", "x").mean - row(worse, "w", "x").mean, abs=1e-3)
    alike = difference(twin, worse, ("twin", "worse"))
    assert alike.ci95[0] <= 0 <= alike.ci95[1]
    nothing = difference(worse, worse, ("a", "b"))
    assert (nothing.mean, nothing.ci95) == (0, (0, 0))
    # Pairing pays: the unpaired intervals overlap.
    assert row(better, "b", "x").ci95[0] < row(worse, "w", "x").ci95[1]


def test_what_is_not_paired_is_refused() -> None:
    with pytest.raises(ValueError, match=r"b saw 150 images and a 200|a saw 200 images and b 150"):
        difference(matrix(4), matrix(4)[:, :150], ("a", "b"))
    with pytest.raises(ValueError, match="a saw 4 chips and b 5: not paired"):
        difference(matrix(4), matrix(5), ("a", "b"))
    assert difference(matrix(1), matrix(5), ("ideal", "b")).ci95[0] < 5  # one chip meets all


# ------------------------------------------------------------------------------------------------------- Monte Carlo


def test_two_models_meet_the_same_chips_images_and_reads(noisy: nn.Module) -> None:
    """An exact copy gives the same answers, image by image; so does another order of evaluation."""
    twin = copy.deepcopy(noisy)
    first = [trial.right for trial in over_chips(noisy, source(), 3)]
    list(over_chips(twin, source(), 1, seed=5))
    second = [trial.right for trial in over_chips(twin, source(), 3)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    other = [trial.right for trial in over_chips(twin, source(), 3, seed=1)]
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    resumed = list(over_chips(noisy, source(), 3, known={0, 1}))
    assert [trial.chip for trial in resumed] == [2]
    assert torch.equal(resumed[0].right, first[2])


def test_reads_are_paired_whatever_the_weights(noisy: nn.Module) -> None:
    """Two networks on one macro meet the same noise: a layer's error is the same to the bit where its sums are."""
    seen: list[Tensor] = []
    twin = copy.deepcopy(noisy)
    with torch.no_grad():
        twin.get_submodule("fc").bias.add_(1.0)  # type: ignore[operator, union-attr]
    for model in (noisy, twin):
        hook = model.get_submodule("conv2").register_forward_hook(lambda _, __, y: seen.append(y.clone()))
        next(over_chips(model, source(64, images(64)), 1))
        hook.remove()
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("size", [1, 7, 64, 100, IMAGES])
def test_any_batch_size_gives_the_same_blocks_and_answers(noisy: nn.Module, size: int) -> None:
    found, wanted = list(blocks(source(size)())), list(blocks(source(50)()))
    assert [real for *_, real in found] == [64, 64, IMAGES - 128]
    for a, b in zip(found, wanted, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
        assert len(a[0]) == BLOCK
    data = images(70)
    on_chip(noisy, Chip(3, 1))
    assert torch.equal(answers(noisy, source(size, data)()), answers(noisy, source(50, data)()))


def test_logits_do_not_depend_on_the_batch(noisy: nn.Module) -> None:
    """Bit for bit, not only the answers: what the network says of each image on a noisy die."""
    logits: dict[int, list[Tensor]] = {}
    for size in (7, 150):
        got = logits.setdefault(size, [])
        hook = noisy.register_forward_hook(lambda _, __, y, got=got: got.append(y.clone()))
        answers(noisy, source(size)())
        hook.remove()
    assert torch.equal(torch.cat(logits[7]), torch.cat(logits[150]))


def test_test_chips_are_no_training_chips() -> None:
    lots = {die(seed, 0).seed for seed in range(50)} | {training_chip(seed, 0).seed for seed in range(50)}
    assert len(lots) == 100
    assert die(0, 4) == Chip(draws.key("test lot", 0), 4)


def test_results_come_chip_by_chip(noisy: nn.Module) -> None:
    walked = []

    def counted() -> Iterator[Any]:
        walked.append(silicon(noisy).chip.number)
        yield from source()()

    trials = over_chips(noisy, counted, 3)
    assert walked == []
    assert next(trials).chip == 0
    assert walked == [0]
    assert next(trials).chip == 1
    assert walked == [0, 1]
    trials.close()


def test_the_model_is_left_as_it_came(noisy: nn.Module) -> None:
    model = copy.deepcopy(noisy).train()
    model.get_submodule("bn1").eval()  # a frozen batch norm stays frozen
    modes = [module.training for module in model.modules()]
    on_chip(model, Chip(8, 9), write=2)
    silicon(model).seed = 4
    before = state(model)
    list(over_chips(model, source(), 2, seed=1))
    next(over_chips(model, source(), 2, seed=1))  # abandoned
    answers(model, source()())
    layer_reports(model, source(), "m", chips=1, images=10)
    shared = silicon(model)
    assert (shared.chip, shared.write, shared.seed, shared.samples) == (Chip(8, 9), 2, 4, None)
    assert [module.training for module in model.modules()] == modes
    assert same_state(model, before)
    model.eval()(DATA[0][:3])  # no indices of some other batch are left behind
    with pytest.raises(RuntimeError, match="planted"):
        list(over_chips(model, source(), 2, prepare=lambda model, chip: (_ for _ in ()).throw(RuntimeError("planted"))))
    assert shared.chip == Chip(8, 9)


def test_bad_data_are_named(noisy: nn.Module) -> None:
    x, y, index = images(80)
    x[70, 0, 3, 3] = float("nan")
    with pytest.raises(ValueError, match=rf"sample {int(index[70])}: its input holds NaN"):
        answers(noisy, source(9, (x, y, index))())
    with pytest.raises(ValueError, match="the data set is empty"):
        answers(noisy, [])
    with pytest.raises(ValueError, match="the data set is empty"):
        evaluate(noisy, [], chips=1)
    with pytest.raises(ValueError, match="chips = 0"):
        evaluate(noisy, source()(), chips=0)
    with pytest.raises(TypeError, match="can be walked once"):
        evaluate(noisy, iter(source()()), chips=2)


def test_weights_that_became_nan_are_named(trained: nn.Module) -> None:
    model = on(trained, NOISY, skip=["fc"])
    with torch.no_grad():
        model.get_submodule("fc").weight[0, 0] = float("nan")  # type: ignore[operator, index, union-attr]
    with pytest.raises(ValueError, match=r"sample 5: its output.* holds NaN"):
        answers(model, source()())
    model = on(trained, NOISY)
    with torch.no_grad():
        model.get_submodule("conv2").weight[0, 0, 0, 0] = float("nan")  # type: ignore[operator, index, union-attr]
    with pytest.raises(ValueError, match="conv2"):
        answers(model, source()())


def test_a_network_that_is_on_no_macro_is_refused(trained: nn.Module) -> None:
    assert answers(trained, source()()).double().mean() > 0.8  # a float network has answers
    with pytest.raises(ValueError, match=r"call bitline.convert"):
        list(over_chips(trained, source(), 1))


MEMORY = """
import resource, sys
import torch
from bitline.evaluate import over_chips
from bitline.macro import Macro
from bitline.networks import Digits
from bitline.nn import calibrate, convert

torch.set_num_threads(1)
macro = Macro.model_validate({
    "name": "m", "rows": 64, "columns": 64, "inputs": {"kind": "unsigned", "bits": 4},
    "weights": {"kind": "twos_complement", "bits": 4}, "cell": {"errors": [{"kind": "gaussian", "sigma": 0.1}]},
    "column": {"kind": "curve", "offset_sigma": 0.5}, "converter": {"bits": 6},
})
x = torch.rand(64, 1, 8, 8)
model = calibrate(convert(Digits(channels=(8, 16, 64)).build(), macro), [x])
batches = [(x, torch.zeros(64, dtype=torch.int64), torch.arange(64))]
for trial in over_chips(model, lambda: batches, int(sys.argv[1])):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_twenty_chips_need_the_memory_of_one() -> None:
    def peak(chips: int) -> int:
        done = subprocess.run([sys.executable, "-c", MEMORY, str(chips)], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert peak(20) <= 1.1 * peak(1)


# ------------------------------------------------------------------------------------------------------- batch norm


def test_recalibrated_statistics_are_plain_averages(trained: nn.Module) -> None:
    """The first batch norm sees the first layer's outputs: mean of batch means, mean of unbiased batch variances."""
    model = on(trained, macro())
    batches = source()()
    outputs: list[Tensor] = []
    hook = model.get_submodule("conv1").register_forward_hook(lambda _, __, y: outputs.append(y))
    recalibrate(model, batches)
    hook.remove()
    norm = model.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert len(outputs) == 3
    means = torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
    variances = torch.stack([y.transpose(0, 1).flatten(1).var(1) for y in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_population_statistics_meet_training_chips_and_leave_the_model(noisy: nn.Module) -> None:
    before, met = state(noisy), []
    on_chip(noisy, Chip(1, 1))

    def chip(number: int) -> Chip:
        met.append(number)
        return training_chip(0, number)

    found = recalibrated(noisy, source()(), chip)
    assert met == [0, 1, 2]
    assert same_state(noisy, before)
    assert silicon(found).chip == silicon(noisy).chip == Chip(1, 1)
    changed = {name for name, value in found.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".running_" in name or "num_batches" in name for name in changed)
    per_chip = copy.deepcopy(noisy)
    on_chip(per_chip, Chip(1, 1))
    recalibrate(per_chip, source()(), most=2)
    assert silicon(per_chip).chip == Chip(1, 1)
    assert not torch.equal(per_chip.state_dict()["bn1.running_mean"], found.state_dict()["bn1.running_mean"])
    assert int(per_chip.state_dict()["bn1.num_batches_tracked"]) == 2


def test_recalibration_mends_a_biased_curve(trained: nn.Module) -> None:
    """A compressive curve moves means and variances: their new values win accuracy back."""
    curve = CurveColumn(mean=Compressive(compression=0.5, dead_zone=0.5))
    start = Lsq(init=None)  # ranges in which the curve costs much
    model = on(trained, macro("biased", column=curve, converter=FINE), inputs=start, weights=start)
    before = float(answers(model, source()()).double().mean())
    after = float(answers(recalibrated(model, source()(), lambda i: Chip(0, i)), source()()).double().mean())
    assert after > before + 0.1


def test_recalibration_per_chip_prepares_each_chip(noisy: nn.Module) -> None:
    model, seen = copy.deepcopy(noisy), []

    def prepare(on: nn.Module, number: int) -> None:
        seen.append((number, silicon(on).chip))
        recalibrate(on, source()(), most=1)

    assert len(list(over_chips(model, source(), 2, seed=3, prepare=prepare))) == 2
    assert seen == [(0, die(3, 0)), (1, die(3, 1))]


def test_recalibration_refuses_what_it_cannot_do(trained: nn.Module) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="no batch norm"):
        recalibrate(on(plain, macro()), source()())
    with pytest.raises(ValueError, match="the loader is empty"):
        recalibrate(on(trained, macro()), [])


# -------------------------------------------------------------------------------------------------------- diagnoses


def test_the_layer_on_the_bad_macro_loses_most(trained: nn.Module) -> None:
    bad = macro("bad", column=CurveColumn(sigma=Polynomial(coefficients=(12.0,))))
    model = on(trained, {"conv3": bad, "*": macro()})
    before = state(model)
    y = model(DATA[0])
    found = {one.layer: one for one in sensitivity(model, source(), "m", chips=2)}
    assert list(found) == list(layers(model))
    assert max(found.values(), key=lambda one: one.loss).layer == "conv3"
    assert found["conv3"].loss > 5
    assert all(abs(one.loss) < 1 for name, one in found.items() if name != "conv3")
    assert same_state(model, before)
    assert torch.equal(model(DATA[0]), y)
    assert all(layer.macro == layer.design for layer in layers(model).values())


FINE = Adc(bits=9, range=FixedRange(low=0, high=127))
SINGLE = {
    "clipping": macro(converter=Adc(bits=1, range=FixedRange(low=0, high=1))),
    "resolution": macro(converter=Adc(bits=3, range=FixedRange(low=0, high=70))),
    "variation": macro(cell=Cell(errors=(GaussianCell(sigma=0.5),))),
    "noise": macro(column=CurveColumn(sigma=Polynomial(coefficients=(3.0,)))),
    "curve": macro(column=CurveColumn(mean=Compressive(compression=0.4, dead_zone=1.0, width=4.0)), converter=FINE),
    "noise of a converter": macro(converter=Adc(bits=9, range=FixedRange(low=0, high=511), noise=3.0)),
    "variation of offsets": macro(converter=Adc(bits=9, range=FixedRange(low=0, high=511), offset_sigma=3.0)),
    "variation of steps": macro(converter=Adc(bits=7, range=FixedRange(low=0, high=127), dnl_sigma=0.5)),
}


@pytest.mark.parametrize("case", SINGLE)
def test_a_single_cause_is_found(trained: nn.Module, case: str) -> None:
    model, cause = on(trained, SINGLE[case]), case.split()[0]
    clean = float(answers(on(trained, macro()), source()()).double().mean()) * 100
    before = state(model)
    found = {one.cause: one.gain for one in explanation(model, source(), "m", chips=2)}
    assert max(found, key=lambda name: found[name]) == cause
    assert found[cause] > 5
    assert all(abs(gain) < 0.3 * found[cause] for name, gain in found.items() if name != cause)
    mean = next(one.mean for one in explanation(model, source(), "m", chips=2) if one.cause == cause)
    assert mean == pytest.approx(clean, abs=1.5)
    assert same_state(model, before)
    assert {layer.cause for layer in layers(model).values()} == {None}


def test_a_measured_table_is_its_own_cause(trained: nn.Module) -> None:
    design = macro(converter=None, column=TableColumn(probability=table(65, 4.0)))
    found = explanation(on(trained, design), source(), "m", chips=2)
    assert [one.cause for one in found] == ["table"]
    assert found[0].gain > 5


# What is one layer's report, by hand: 10 inputs, 3 outputs, 5 samples.
HAND = {"rows": 10, "columns": 8, "inputs": UnsignedInput(bits=3, digit_bits=3), "weights": UnsignedWeight(bits=2)}


def linear(design: Macro) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 3))
    with torch.no_grad():
        net[0].weight.copy_(torch.randint(0, 4, (3, 10)).float())  # whole numbers: the quantizer leaves them
    x = torch.randint(0, 8, (5, 10)).float()
    data = (x, torch.zeros(5, dtype=torch.int64), torch.arange(5))
    return calibrate(convert(net, design), [x]).eval(), (data, source(2, data))


def test_a_layers_snr_is_that_of_its_outputs() -> None:
    design = macro(**HAND, cell=Cell(errors=(GaussianCell(sigma=0.1),)), converter=Adc(bits=8))
    model, ((x, _, index), batches) = linear(design)
    (report,) = layer_reports(model, batches, "m", chips=2, images=5, seed=9)
    exact = layers(model)["0"].exact(x).detach()
    signal = error = 0.0
    for number in range(2):
        on_chip(model, die(9, number))
        silicon(model).begin(index)
        y, bias = model(x).detach(), layers(model)["0"].bias
        assert bias is not None
        bias = bias.detach()
        signal += float((exact - bias).double().square().sum())
        error += float((y - exact).double().square().sum())
    assert report.snr_db == pytest.approx(10 * math.log10(signal / error), abs=1e-3)
    # 2 chips × 5 samples × 3 outputs × 2 bits of a weight, one tile, one pass
    assert sum(report.codes) == 2 * 5 * 3 * 2 == 2 * 5 * layers(model)["0"].conversions
    assert len(report.codes) == 256
    assert 0 < report.error_rate <= 1
    assert (report.layer, report.macro, report.method) == ("0", "sram", "m")


def test_an_exact_layer_reports_no_error() -> None:
    model, (_, batches) = linear(macro(**HAND, converter=Adc(bits=8, range=FixedRange(low=0, high=255))))
    (report,) = layer_reports(model, batches, "m", chips=1)
    assert (report.snr_db, report.error_rate, report.clipped) == (None, 0.0, 0.0)


def test_clipped_conversions_are_counted() -> None:
    model, ((x, _, _), batches) = linear(macro(**HAND, converter=Adc(bits=4, range=FixedRange(low=0, high=15))))
    (report,) = layer_reports(model, batches, "m", chips=1, images=5)
    codes, _, _ = layers(model)["0"].input_quantizer(x)  # type: ignore[misc]
    weights, _, _ = layers(model)["0"].weight_quantizer(layers(model)["0"].weight)  # type: ignore[misc]
    sums = torch.stack([codes @ ((weights.long() >> bit) & 1).float().T for bit in range(2)])
    assert report.clipped == pytest.approx(float((sums >= 15.5).double().mean()), abs=1e-6)
    assert report.error_rate == 0  # the ideal converter clips as well
    wanted = torch.bincount(sums.clamp(max=15).flatten().long(), minlength=16).tolist()
    assert report.codes == tuple(wanted)


def test_reports_leave_no_probe_behind(noisy: nn.Module) -> None:
    before, y = state(noisy), noisy(DATA[0])
    reports = layer_reports(noisy, source(), "m", chips=2, images=70)
    assert [one.layer for one in reports] == list(layers(noisy))
    for one in reports:
        assert sum(one.codes) == 2 * 70 * layers(noisy)[one.layer].conversions
        assert one.error_rate > 0
    assert reports == layer_reports(noisy, source(13), "m", chips=2, images=70)
    assert all(layer.probe is None for layer in layers(noisy).values())
    assert same_state(noisy, before)
    assert torch.equal(noisy(DATA[0]), y)


# --------------------------------------------------------------------------------------------------------- evaluate


def test_evaluate_in_one_call(noisy: nn.Module, trained: nn.Module) -> None:
    better = on(trained, macro("quiet", column=CurveColumn(sigma=Polynomial(coefficients=(0.2,)))))
    named = {"noisy": noisy, "quiet": better}
    found = evaluate(named, source(50)(), chips=3, target=50.0, title="two macros")
    told = [(one.method, one.macro, one.chips) for one in found.rows]
    assert told[:2] == [("noisy: ideal macro", "noisy", 1), ("noisy", "noisy", 3)]
    assert told[2:] == [("quiet: ideal macro", "quiet", 1), ("quiet", "quiet", 3)]
    (delta,) = found.differences
    assert (delta.of, delta.against) == ("quiet", "noisy")
    assert delta.mean == pytest.approx(found.rows[3].mean - found.rows[1].mean, abs=1e-3)
    assert {one.layer for one in found.layers} == set(layers(noisy)) == {one.layer for one in found.sensitivity}
    assert {one.cause for one in found.explanation} == {"variation", "noise", "resolution", "clipping"}
    assert set(found.macros) == {"noisy", "quiet"}
    assert all(layer.macro == layer.design for model in named.values() for layer in layers(model).values())


def test_evaluate_is_equal_to_the_byte_whatever_the_batch(noisy: nn.Module) -> None:
    texts = {evaluate(noisy, source(size)(), chips=2, details=False).model_dump_json() for size in (7, 64, 150)}
    assert len(texts) == 1
    x, y, _ = DATA
    counted = evaluate(noisy, [(x[:70], y[:70]), (x[70:], y[70:])], chips=1, details=False)
    whole = evaluate(noisy, [(x, y, torch.arange(len(y)))], chips=1, details=False)
    assert counted == whole  # samples are counted where the loader does not


def test_corners_are_rows_of_their_own(trained: nn.Module) -> None:
    design = macro(
        "cornered",
        column=CurveColumn(sigma=Polynomial(coefficients=(0.1,))),
        corners={"hot": {"column": {"sigma": {"coefficients": [6.0]}}}},
    )
    model = on(trained, design)
    found = evaluate(model, source()(), chips=2, corners=True, details=False)
    assert [one.condition for one in found.rows] == ["nominal", "nominal", "hot"]
    assert found.rows[2].mean < found.rows[1].mean
    assert layers(model)["conv1"].macro == design


def test_differences_of_older_files_are_read() -> None:
    new = Difference(of="a", against="b", mean=-1.0, ci95=(-2.0, 0.0))
    assert Difference.model_validate({"better": "a", "worse": "b", "mean": -1.0, "ci95": (-2.0, 0.0)}) == new
    assert set(new.model_dump(by_alias=True)) == {"of", "against", "mean", "ci95"}


def test_results_are_written_whole_and_read_back(tmp_path: Any, noisy: nn.Module) -> None:
    found = evaluate(noisy, source()(), chips=1, details=False)
    file = tmp_path / "new" / "result.json"
    found.save(file)
    assert Result.load(file) == found
    assert [path.name for path in file.parent.iterdir()] == ["result.json"]
    file.write_text(file.read_text().replace('"mean"', '"meann"', 1))
    with pytest.raises(ValueError, match=r"result.json: rows.0.mean.*expected a result.json"):
        Result.load(file)
    with pytest.raises(TypeError):
        write_atomic(file, 5)  # type: ignore[arg-type]
    assert [path.name for path in file.parent.iterdir()] == ["result.json"]


def test_use_of_a_variant_survives_no_diagnosis(noisy: nn.Module) -> None:
    """Diagnoses end on the designs, also when they are cut short."""
    model = copy.deepcopy(noisy)
    use(model, ideal)
    with pytest.raises(ValueError, match="empty"):
        explanation(model, list, "m")
    assert all(layer.macro == layer.design for layer in layers(model).values())
