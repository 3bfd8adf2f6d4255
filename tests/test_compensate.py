"""Side paths: how they begin, what is trained, what they cost, and what copies, checkpoints and other macros keep."""

from __future__ import annotations

import copy
from pathlib import Path as File
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from bitline.compensate import (
    AnyPath,
    Centred,
    CorrectNet,
    LowRank,
    Patch,
    Path,
    Sparse,
    Trained,
    Trim,
    Trimming,
    Vectors,
    attach,
    overhead,
    remove,
    sides,
)
from bitline.cost import Technology, cost, side_costs
from bitline.evaluate import Result, evaluate, fingerprint, montecarlo, over_chips
from bitline.macro import Chip, Macro, ideal
from bitline.methods import AnyMethod, Compensate, ErrorAware, Plain, Qat, Suppression
from bitline.methods.kinds import AnyOfWeights
from bitline.nn import batch_norms, convert, layers, mapping, moved, on_chip, restore, use
from bitline.report.contents import spread
from bitline.report.costs import cost_tables, overheads_table
from bitline.report.html import render_html
from bitline.train import TrainConfig, train

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(48, 2, 6, 6, generator=DRAW)
Y = (X.mean((2, 3)) @ torch.randn(2, 3, generator=DRAW)).argmax(1)
INDEX = torch.arange(48)
MADE = [CorrectNet(), LowRank(), Vectors(rank=3), Sparse(share=0.2), Centred(rank=2)]
PATHS: list[Path] = [*MADE, Trim(), Patch(share=0.25)]
RANKS, TAPS, SEEN = (1, 2, 2, 2), (9, 4, 1, 1), (2 * 6 * 6, 4 * 3 * 3, 24, 5)
TRAINED = [path for path in PATHS if isinstance(path, Trained)]
FEW = TrainConfig(steps=6, lr=0.05, log_every=1)


def macro(**changes: Any) -> Macro:
    config = {"name": "ln", "rows": 32, "columns": 32, "variation": {"kind": "lognormal", "sigma": 0.5}}
    return Macro.model_validate(config | changes)


def model(design: Macro | None = None) -> nn.Module:
    """Grouped, strided and padded convolutions, a norm, and linear layers."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 2, groups=2),
        nn.Flatten(),
        nn.ReLU(),
        nn.Linear(24, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )
    return convert(net, design or macro()).eval()


def batches(epoch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(X, Y, INDEX)]


@torch.no_grad()
def logits(net: nn.Module, number: int = 1) -> Tensor:
    on_chip(net, Chip(3, number))
    found: Tensor = net(X)
    return found


def disturbed(net: nn.Module) -> nn.Module:
    """With side paths that do something."""
    draw = torch.Generator().manual_seed(7)
    for side in sides(net).values():
        for value in side.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.randn(value.shape, generator=draw)
    return net


# ----------------------------------------------------------------------------------------------------- how they begin


def test_each_kind_is_here() -> None:
    missing = set(get_args(get_args(AnyPath)[0])) - {type(path) for path in PATHS}
    assert not missing, "a row for each in PATHS of this file"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
def test_a_side_path_begins_as_the_identity(path: Path) -> None:
    """A3.7: bit for bit, on chips and with digits; but for the share of weights that is exact from the start."""
    net, exact = model(), isinstance(path, Sparse)
    bare = logits(net)
    names = {name for name, _ in net.named_parameters()}
    attach(net, path)
    assert names <= {name for name, _ in net.named_parameters()}
    assert list(sides(net)) == list(layers(net)) == ["0", "3", "6", "8"]
    assert torch.equal(logits(net), bare) is not exact
    use(net, ideal)
    torch.testing.assert_close(logits(net), _clean(net))


def _clean(net: nn.Module) -> Tensor:
    """The logits of the network without side paths, in float."""
    plain = restore(remove(copy.deepcopy(net)), inplace=True).eval()
    with torch.no_grad():
        found: Tensor = plain(X)
    return found


def test_a_digital_share_is_free_of_errors() -> None:
    net = attach(model(), Sparse(share=0.999))
    differ = (logits(net, 1) - logits(net, 2)).abs().max()
    assert float(differ) < 0.2 * float((logits(model(), 1) - logits(model(), 2)).abs().max())
    with torch.no_grad():
        for layer in layers(net).values():
            layer.weight.zero_()
    assert torch.equal(logits(net, 1), logits(net, 2))


def test_a_generator_sees_inputs_and_outputs_averaged_to_one_size() -> None:
    net = attach(model(), CorrectNet(width=0.5), at=["0"])
    side, layer = sides(net)["0"], layers(net)["0"]
    assert side.generator.shape == (2, 2 + 4)
    assert side.compensator.shape == (4, 4 + 2)
    disturbed(net)
    y = torch.randn(5, 4, 3, 3)
    pooled = nn.functional.adaptive_avg_pool2d(X[:5], 3)
    c = nn.functional.conv2d(torch.cat([pooled, y], 1), side.generator[:, :, None, None], side.generator_bias)
    wanted = y + nn.functional.conv2d(torch.cat([y, c], 1), side.compensator[:, :, None, None], side.compensator_bias)
    torch.testing.assert_close(side(layer, X[:5], lambda x: y), wanted)


def test_a_product_of_low_rank_is_its_two_steps() -> None:
    net = disturbed(attach(model(), LowRank(rank=2), at=["0"]))
    side, layer = sides(net)["0"], layers(net)["0"]
    inner = nn.functional.conv2d(X, side.down[0].view(2, 2, 3, 3), stride=2, padding=1)
    y = torch.randn(48, 4, 3, 3)
    torch.testing.assert_close(
        side(layer, X, lambda x: y), y + nn.functional.conv2d(inner, side.up[0][:, :, None, None])
    )


# ---------------------------------------------------------------------------------------------------- what is trained


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.kind)
def test_training_reaches_side_paths_alone(path: Path) -> None:
    """A3.7: everything else stays as it was, statistics of norms too; each step meets another chip."""
    net = model()
    chips = []
    layers(net)["0"].register_forward_pre_hook(lambda layer, _: chips.append(layer.silicon.chip))
    bare = attach(copy.deepcopy(net), path).state_dict()
    method = Compensate(path=path)
    history = train(net, batches, config=FEW, method=method, progress=False)
    assert len(set(chips)) == len(chips) == FEW.steps
    assert history.records[-1]["loss"] < history.records[0]["loss"] * 1.1
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, bare[name])}
    assert changed
    assert all(".side." in name for name in changed)
    trains = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trains == set(dict(net.named_parameters()))  # as it was found
    assert all(norm.training for norm in batch_norms(net))


def test_a_compensator_may_err_too() -> None:
    """A3.7, the second mode: frozen on a die, another on the next, exact on the ideal macro."""
    analog, digital = (disturbed(attach(model(), CorrectNet(weights=kind))) for kind in ("analog", "digital"))
    assert torch.equal(logits(analog), logits(analog))
    assert not torch.equal(logits(analog), logits(digital))
    side, layer = sides(analog)["0"], layers(analog)["0"]
    here = side.held(layer, "compensator")
    on_chip(analog, Chip(3, 2))
    assert not torch.equal(side.held(layer, "compensator"), here)
    for net in (analog, digital):
        use(net, ideal)
    assert torch.equal(logits(analog), logits(digital))


def test_trims_are_of_the_chip_they_were_fitted_on() -> None:
    net = attach(model(), Trim())
    use(net, ideal)
    wanted = logits(net)
    use(net)
    before = float((logits(net) - wanted).square().mean())
    Trimming(batches(0))(net)
    assert layers(net)["0"].silicon.chip == Chip(3, 1)
    assert all(layer.macro == layer.design for layer in layers(net).values())
    assert float((logits(net) - wanted).square().mean()) < 0.7 * before
    other = float((logits(net, 2) - wanted).square().mean())
    Trimming(batches(0))(net)
    assert float((logits(net, 2) - wanted).square().mean()) < other
    with pytest.raises(ValueError, match=r"attach\(model, Trim\(\)\) first"):
        Trimming(batches(0))(model())


# ------------------------------------------------------------------------------------------------------ what they cost


def test_costs_by_hand() -> None:
    """A3.10. Layers: 3×3 positions of (4, 18), 2×2 of (6, 8) in two groups, one of (5, 24) and one of (3, 5)."""
    sizes = [(9, 4, 18, 1, 2), (4, 3, 8, 2, 4), (1, 5, 24, 1, 24), (1, 3, 5, 1, 5)]  # positions, N, K, groups, l
    widths = [max(1, round(0.25 * n * g)) for _, n, _, g, _ in sizes]
    paper = [(m * (c + n * g), n * g * (n * g + m)) for m, (_, n, _, g, c) in zip(widths, sizes, strict=True)]
    low = [g * 2 * (k + n) for _, n, k, g, _ in sizes]
    wanted = {
        CorrectNet(): (
            [a + b + m + n * g for (a, b), m, (_, n, _, g, _) in zip(paper, widths, sizes, strict=True)],
            [p * (a + b) for (a, b), (p, *_) in zip(paper, sizes, strict=True)],
        ),
        LowRank(): (low, [p * one for one, (p, *_) in zip(low, sizes, strict=True)]),
        Vectors(rank=3): (
            [2 * n * g + 3 * g for _, n, _, g, _ in sizes],
            [p * (g * 3 * (k + n) + 2 * n * g + 3 * g) for p, n, k, g, _ in sizes],
        ),
        Sparse(share=0.25): (
            [round(n * g * k / 4) for _, n, k, g, _ in sizes],
            [p * round(n * g * k / 4) for p, n, k, g, _ in sizes],
        ),
        Centred(rank=2): (  # the first layer, of two channels, has one direction besides its mean
            [
                (r + 1) * c + n * g * (t * r + offsets)
                for r, t, offsets, (_, n, _, g, c) in zip(RANKS, TAPS, (9, 1, 1, 1), sizes, strict=True)
            ],
            [r * (2 * x + p * n * g * t) for r, t, x, (p, n, _, g, _) in zip(RANKS, TAPS, SEEN, sizes, strict=True)],
        ),
        Trim(): ([2 * n * g for _, n, _, g, _ in sizes], [p * n * g for p, n, _, g, _ in sizes]),
        Patch(share=0.25): (  # a value and a place
            [2 * round(n * g * k / 4) for _, n, k, g, _ in sizes],
            [p * round(n * g * k / 4) for p, n, k, g, _ in sizes],
        ),
    }
    for path, (parameters, macs) in wanted.items():
        *rows, total = overhead(attach(model(), path), X[:2])
        assert [row.side_parameters for row in rows] == parameters, path.kind
        assert [row.side_macs for row in rows] == macs, path.kind
        assert [row.side_inputs for row in rows] == fetched(path, sizes), path.kind
        assert [row.macs for row in rows] == [p * n * g * k for p, n, k, g, _ in sizes]
        assert (total.side_parameters, total.side_macs) == (sum(parameters), sum(macs))
        assert total.side_inputs == sum(row.side_inputs for row in rows)
        assert total.parameters == sum(p.numel() for p in model().parameters())
        assert total.mac_share == sum(macs) / total.macs
    assert overheads_table(rows).row_count == 4
    (total,) = overhead(model(), X[:2])
    assert (total.side_parameters, total.side_macs) == (0, 0)


def fetched(path: Path, sizes: list[tuple[int, int, int, int, int]]) -> list[int]:
    """Inputs that a side path takes: each once to average, those of every position for a product, none for a trim."""
    if isinstance(path, CorrectNet):
        return list(SEEN)
    if isinstance(path, Sparse):  # of each group those that one of its weights meets
        chosen = [side.chosen.flatten(1) for side in sides(attach(model(), path)).values()]
        met = [{(i * g // len(c), j) for i, row in enumerate(c.tolist()) for j, one in enumerate(row) if one}
               for c, (*_, g, _) in zip(chosen, sizes, strict=True)]  # fmt: skip
        return [p * len(some) for some, (p, *_) in zip(met, sizes, strict=True)]
    if isinstance(path, Centred):  # each once for its coordinates, and those for every position
        return [each + p * r * t for each, r, t, (p, *_) in zip(SEEN, RANKS, TAPS, sizes, strict=True)]
    if isinstance(path, Patch):  # those that one of its weights meets, on average
        missed = [(1 - round(n * g * k / 4) / (n * g * k)) ** n for _, n, k, g, _ in sizes]
        return [round(p * g * k * (1 - one)) for one, (p, _, k, g, _) in zip(missed, sizes, strict=True)]
    return [0 if isinstance(path, Trim) else p * g * k for p, _, k, g, _ in sizes]


def test_energy_of_a_side_path_by_hand() -> None:
    """Beside the last layer, 5 inputs and 3 outputs: products, and with a buffer all that is read, 8 bits each."""
    add, multiply, bit = 4e-15, 3e-15, 0.1e-12
    given = Technology.model_validate(
        {"name": "t", "cycle": 20e-9, "digital": {"add": add, "multiply": multiply}, "buffer": {"bit": bit}}
    )
    # width 0.34: 1 channel between; generator 1 · (5 + 3) + 1, compensator 3 · (3 + 1) + 3; sums of 16 + 3 bits
    mac = 64 * multiply + 19 * add
    wanted = {CorrectNet(width=0.34): 20 * mac + (24 + 5) * 8 * bit}
    # rank 1: 5 + 3 products of 5 terms
    wanted[LowRank(rank=1)] = 8 * mac + (8 + 5) * 8 * bit
    # rank 1: the random 5 + 3 are of a seed and are not read; b, g and d are 3 + 3 + 1
    wanted[Vectors(rank=1)] = 15 * mac + (7 + 5) * 8 * bit
    # rank 1: 5 products of 5 terms to the coordinate and 5 from it, 3 from it to the outputs; 2 · (5 + 3) numbers
    wanted[Centred(rank=1)] = 13 * mac + (16 + 5 + 1) * 8 * bit
    # a product an output, of one term; 3 gains and 3 offsets
    wanted[Trim()] = 3 * (64 * multiply + 17 * add) + 6 * 8 * bit
    for path, joules in wanted.items():
        net = attach(model(converting(path)), path, at=["8"])
        *_, total = side_costs(net, X[:1], given)
        assert total.joules == pytest.approx(joules), path.kind
        *_, dry = side_costs(net, X[:1], given.model_copy(update={"buffer": None}))
        read = total.side_parameters + total.side_inputs
        assert dry.joules == pytest.approx(joules - read * 8 * bit), path.kind


def converting(path: Path) -> Macro:
    kind = "twos_complement" if isinstance(path, Centred) else "unsigned"
    return macro(
        variation=None,
        inputs={"kind": kind, "bits": 4, "digit_bits": 1},
        weights={"kind": "differential", "bits": 4, "cell_bits": 3},
        converter={"bits": 6},
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
def test_side_paths_are_digital_products_of_a_cost(path: Path) -> None:
    """A3.10: the network without them is counted as before, and what they add is theirs alone, energy too."""
    bare, net = model(converting(path)), attach(model(converting(path)), path, at=["0", "6"])
    weights = net[0].weight.clone()
    before, found = cost(bare, X[:1]), cost(net, X[:1])
    assert torch.equal(net[0].weight, weights)
    added = [one for one in found.layers if one.beside is not None]
    assert [(one.layer, one.beside) for one in added] == [("0.side", "0"), ("6.side", "6")]
    assert tuple(one for one in found.layers if one.beside is None) == before.layers
    *rows, total = side_costs(net, X[:1])
    assert [(row.side_macs, row.side_parameters, row.side_inputs) for row in rows] == [
        (one.macs, one.parameters, one.inputs) for one in added
    ]
    digital = found.technology.digital
    assert digital is not None
    read = [8 * (row.side_parameters + row.side_inputs) * 10e-12 / 64 for row in rows]
    joules = [
        row.side_macs * digital.mac(8, 8, sides(net)[row.layer].terms) + memory
        for row, memory in zip(rows, read, strict=True)
    ]
    assert [row.joules for row in rows] == pytest.approx(joules)
    for with_paths, without in zip(found.estimates, before.estimates, strict=True):
        assert with_paths.energy.total - without.energy.total == pytest.approx(sum(joules))
        assert total.energy_shares[with_paths.adc] == pytest.approx(sum(joules) / without.energy.total)
        assert rows[1].against[with_paths.adc] == pytest.approx(without.layers[2].total)
        assert with_paths.tops_per_watt == without.tops_per_watt  # of the layers on the macro
        macs = sum(one.macs for one in before.layers)  # what side paths multiply is no work of the network
        assert with_paths.network_tops_per_watt == pytest.approx(2 * macs / with_paths.energy.total / 1e12)
        assert with_paths.network_tops_per_watt < without.network_tops_per_watt
        assert without.network_tops_per_watt == pytest.approx(without.tops_per_watt)
    assert found.latency == before.latency
    assert "of it side paths" in cost_tables(found, "m")[0].columns[0]._cells[-5].plain
    told = overheads_table((*rows, total))
    assert len(told.columns) == 7  # shares under all laws are one column, from the least to the most
    assert str([*told.columns[-1].cells][-1]) == spread(total.energy_shares.values())


@pytest.mark.parametrize("path", [path for path in PATHS if path.SIZES], ids=lambda path: path.kind)
def test_usual_sizes_are_from_the_cheapest_to_the_dearest(path: Path) -> None:
    rows = [overhead(attach(model(), path.sized(size)), X[:2])[-1] for size in path.SIZES]
    for stored in ([row.side_parameters for row in rows], [row.side_macs for row in rows]):
        assert stored == sorted(stored)
        assert stored[0] < stored[-1]


def test_without_converters_side_paths_are_priced_alone() -> None:
    *_, total = side_costs(attach(model(), CorrectNet()), X[:1])
    assert total.joules is not None
    assert (total.energy_shares, total.why) == ({}, "0: macro ln has continuous inputs or weights: give both digits to "
                                                    "count them")  # fmt: skip
    bare = Technology(name="none", cycle=20e-9)
    assert side_costs(attach(model(), CorrectNet()), X[:1], bare)[-1].joules is None


def test_terms_are_those_of_the_longest_sum() -> None:
    net = {path.kind: sides(attach(model(), path, at=["0"]))["0"].terms for path in PATHS}
    assert net == {"correctnet": 2 + 4, "low_rank": 18, "vectors": 18, "sparse": net["sparse"], "centred": 9} | {
        "trim": 1,
        "patch": 18,
    }
    assert 1 <= net["sparse"] <= 18


def test_a_report_shows_what_side_paths_cost() -> None:
    result = evaluate({"bare": model(), "helped": attach(model(), CorrectNet())}, batches(0), chips=2, details=False)
    assert list(result.overheads) == ["helped"]
    assert Result.model_validate_json(result.model_dump_json(by_alias=True)) == result
    page = render_html(result)
    assert "What side paths cost" in page
    assert "has continuous inputs or weights" in page


# ----------------------------------------------------------------------------------------------------- what keeps them


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
def test_copies_states_and_other_macros_keep_them(path: Path) -> None:
    net = disturbed(attach(model(), path))
    wanted = logits(net)
    assert torch.equal(logits(copy.deepcopy(net)), wanted)
    again = attach(model(), path)
    again.load_state_dict(net.state_dict())
    assert torch.equal(logits(again), wanted)
    assert torch.equal(logits(moved(net, lambda design: design)), wanted)
    quiet = moved(net, lambda design: design.model_copy(update={"variation": None}))
    use(net, ideal)
    torch.testing.assert_close(logits(quiet), logits(net))
    with pytest.raises(ValueError, match=r"0 has a side path.*bitline\.compensate\.remove\(model\) first"):
        restore(net)
    told = {row.layer: row.why for row in mapping(net)}
    assert told["6.side"] == "a side path"
    remove(net)
    assert not sides(net)
    restore(net)


def test_evaluation_keeps_them_beside_norms_and_in_its_memory() -> None:
    net = disturbed(attach(model(), CorrectNet()))
    (trial,) = over_chips(net, lambda: batches(0), 1)  # layers and norms joined
    on_chip(net, montecarlo.testing_chip(0, 0))
    with torch.no_grad():
        assert torch.equal(trial.right.bool(), net(X).argmax(1) == Y)
    same = disturbed(attach(model(), CorrectNet(weights="analog")))
    assert fingerprint(net, "", "row") != fingerprint(same, "", "row")


def test_a_run_goes_on_from_its_checkpoint(tmp_path: File) -> None:
    method, config = Compensate(at=("0", "6")), TrainConfig(steps=6, lr=0.05, checkpoint_every=2)
    whole, part = model(), model()
    train(whole, batches, config=config, method=method, progress=False)

    def broken(epoch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        if epoch == 3:
            raise RuntimeError("stopped")
        return batches(epoch)

    with pytest.raises(RuntimeError, match="stopped"):
        train(part, broken, config=config, method=method, out=tmp_path, progress=False)
    part = model()
    train(part, batches, config=config, method=method, out=tmp_path, progress=False)
    assert all(torch.equal(part.state_dict()[name], value) for name, value in whole.state_dict().items())


# ------------------------------------------------------------------------------------------------------------ refusals


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="at: pattern 'fc' matches no layer; the layers are: 0, 3, 6, 8"):
        attach(model(), CorrectNet(), at=["0", "fc"])
    with pytest.raises(ValueError, match="0 has a side path already"):
        attach(attach(model(), CorrectNet(), at=["0"]), LowRank())
    with pytest.raises(ValueError, match="list of patterns"):
        attach(model(), CorrectNet(), at="0")
    with pytest.raises(ValueError, match="sits on a macro"):
        attach(nn.Linear(2, 2), CorrectNet())
    with pytest.raises(ValueError, match="0: weights: analog gives a side path the macro's weight `variation`"):
        attach(model(macro(variation=None)), LowRank(weights="analog"))
    with pytest.raises(ValidationError, match=r"test\.trim_per_chip"):
        Compensate(path=Trim())
    with pytest.raises(ValidationError, match=r"test\.patch_per_chip"):
        Compensate(path=Patch())
    with pytest.raises(ValidationError, match=r"centred is found on inputs, not trained: .* `centre`"):
        Compensate(path=Centred())
    for both in ({"centre": Centred()}, {"after": ErrorAware(centre=Centred())}):
        with pytest.raises(ValidationError, match="centred inputs are a side path, and a layer has room for one"):
            Compensate.model_validate(both)
    method = Compensate(after=ErrorAware(suppress=Suppression()))
    assert "give suppress.sigma" in (method.refuses(macro(variation=None)) or "")
    kind: TypeAdapter[Any] = TypeAdapter(AnyPath)
    with pytest.raises(
        ValidationError, match="'correctnet', 'low_rank', 'vectors', 'sparse', 'centred', 'trim', 'patch'"
    ):
        kind.validate_python({"kind": "lora"})


def test_each_layer_may_have_its_own_size() -> None:
    method = Compensate(at={"0": 1, "6": 0.2})
    kind: TypeAdapter[Any] = TypeAdapter(AnyMethod)
    assert kind.validate_python(method.model_dump()) == method
    assert method.patterns == ("0", "6")
    assert method.title == "compensated (generator and compensator, width 1 at 0, 0.2 at 6)"
    net = model()
    train(net, batches, config=FEW, method=method, progress=False)
    assert {name: len(side.generator) for name, side in sides(net).items()} == {"0": 4, "6": 1}
    assert Compensate(path=LowRank(), at={"0": 3}).placed == [(LowRank(rank=3), ("0",))]
    for path, at, message in ((CorrectNet(), 9, "width 9: input should be less"), (LowRank(), 0.5, "rank 0.5: ")):
        with pytest.raises(ValidationError, match=message):
            Compensate(path=path, at={"0": at})


def test_side_paths_may_come_after_every_method_on_a_macro() -> None:
    """``harden`` puts them after whatever it kept."""
    first, every = (set(get_args(get_args(union)[0])) for union in (AnyOfWeights, AnyMethod))
    assert first == every - {Plain, Compensate}


def test_a_method_says_what_it_comes_after() -> None:
    kind: TypeAdapter[Any] = TypeAdapter(AnyMethod)
    method = Compensate(path=LowRank(rank=4), at=("conv?",), after=Qat(suppress=Suppression(exempt=("fc",))))
    assert kind.validate_python(method.model_dump()) == method
    assert method.title.startswith("without errors, suppressed")
    assert method.title.endswith("then compensated (low rank 4 at conv?)")
    assert method.patterns == ("conv?", "fc")
