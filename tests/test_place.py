"""Placement of side paths: rewards, observations, searchers against known spaces, trials kept once, and the command."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from typer.testing import CliRunner

import bitline as bl
from bitline.cli import app
from bitline.compensate import AnyPath, CorrectNet, LowRank, Sparse, Trim, Vectors
from bitline.cost import side_costs
from bitline.evaluate import injected_from
from bitline.methods import AnyMethod, Compensate
from bitline.place import (
    AnySearcher,
    Budget,
    Candidate,
    Episode,
    Exhaustive,
    Greedy,
    Placed,
    Ppo,
    Random,
    Reinforce,
    Share,
    Space,
    Trials,
    early,
    place,
    read_searcher,
    search,
    sizes_of,
    space_of,
)
from bitline.place.even import Even
from bitline.place.searchers.policy import Policy, steps_of
from bitline.report.placement import placement_table
from bitline.train import TrainConfig
from test_compensate import X, batches, macro, model
from test_experiment import PLAIN, TINY

At = dict[str, float]


def space(layers: int = 3, share: float = 0.1, **changes: Any) -> Space:
    """Layer i costs 0.02 (i + 1) of the parameters at width 0.1, twice that at 0.2; MACs always 0.03."""
    found = tuple(
        Candidate(
            layer=f"l{i}",
            depth=i / max(1, layers - 1),
            channels=(3, 7),
            positions=15,
            lost=0.25,
            costs=tuple(Share(parameters=0.02 * (i + 1) * factor, macs=0.03) for factor in (1, 2)),
        )
        for i in range(layers)
    )
    return Space(candidates=found, widths=(0.1, 0.2), budget=Budget(share=share, **changes), original=0.8)


class Known:
    """Accuracies that are known: a gain for each layer and width. Counts what it is asked."""

    def __init__(self, *gains: tuple[float, float], together: float = 0.0, stop: int | None = None) -> None:
        self.gains, self.together, self.stop = gains, together, stop
        self.asked: list[At] = []

    def __call__(self, at: At) -> list[float]:
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        self.asked.append(at)
        mean = 0.5 + sum(self.gains[int(name[1:])][width == 0.2] for name, width in at.items())
        mean += self.together * (len(at) == len(self.gains))
        return [mean - 0.01, mean + 0.01]


THREE = ((0.02, 0.03), (0.03, 0.05), (0.05, 0.06))
SEARCHERS: list[AnySearcher] = [Reinforce(evaluations=9), Random(evaluations=9), Greedy(), Exhaustive()]
assert {type(one) for one in SEARCHERS} | {Ppo} == set(get_args(get_args(AnySearcher)[0]))  # Ppo: where it is there
each_searcher = pytest.mark.parametrize("searcher", SEARCHERS, ids=lambda one: one.kind)


# ------------------------------------------------------------------------------------------- rewards and observations


def test_rewards_by_hand() -> None:
    """R = (mean − std) / original − η · max(0, overhead − budget) / budget."""
    here = space(eta=2.0)
    assert here.named((0, 1, 2)) == {"l1": 0.1, "l2": 0.2}
    assert here.share((0, 1, 2)).model_dump() == pytest.approx({"parameters": 0.16, "macs": 0.06, "energy": None})
    spread = torch.tensor([0.5, 0.6, 0.7]).std().item()
    assert here.reward((1, 1, 0), [0.5, 0.6, 0.7]) == pytest.approx((0.6 - spread) / 0.8)  # 0.06 of 0.1
    assert here.reward((0, 1, 2), [0.6]) == pytest.approx(0.6 / 0.8 - 2 * 0.06 / 0.1)
    assert (here.within((1, 2, 0)), here.within((0, 1, 2))) == (True, False)
    macs = space(share=0.06, of="macs")
    assert (macs.within((2, 2, 0)), macs.within((1, 1, 1))) == (True, False)


def test_observations_say_what_was_done_and_what_comes() -> None:
    here = space()
    first, second, last = here.observe(()), here.observe((2,)), here.observe((2, 0, 1))
    inside = [2 / 16, 3 / 16, 4 / 16]  # log2(1 + 3), log2(1 + 7), log2(1 + 15)
    torch.testing.assert_close(first, torch.tensor([0, 0, 0, 1, 0, 0, 0, *inside, 0.4 / 1.4, 0.25, 0]))
    torch.testing.assert_close(second, torch.tensor([0, 0, 1, 0, 1, 0, 0.5, *inside, 0.8 / 1.8, 0.25, 0.4 / 1.4]))
    assert not last.any()
    episode = Episode(Trials(here, Known(*THREE)))
    assert [episode.act(action) for action in (2, 1)] == [None, None]
    assert episode.allowed.tolist() == [True, False, False]  # 0.04 + 0.04 + 0.06
    found = episode.act(0)
    assert found is not None
    assert found.at == {"l0": 0.2, "l1": 0.1}
    with pytest.raises(ValueError, match="begin another episode"):
        episode.act(0)
    with pytest.raises(ValueError, match=r"action 3: 0 … 2 are expected"):
        Episode(episode.trials).act(3)


def test_candidates_are_the_layers_before_a_robust_suffix() -> None:
    curve = {"a": 0.5, "b": 0.96, "c": 0.9, "d": 0.95, "e": 0.97}
    assert early(curve, 1.0) == ("a", "b", "c")
    assert early(curve, 1.0, keep=0.5) == ()
    assert early(curve, 1.0, keep=0.99) == ("a", "b", "c", "d", "e")


# ---------------------------------------------------------------------------------------------------------- searchers


def test_exhaustive_is_the_maximum() -> None:
    known = Known(*THREE)
    found = search(space(), known, Exhaustive())
    assert len(known.asked) == len(found.tried) == 27
    assert found.best.reward == max(one.reward for one in found.tried.values() if one.within)
    assert found.best.at == {"l1": 0.1, "l2": 0.1}  # exactly the budget
    assert Exhaustive(most=26).refuses(space()) == (
        "27 placements of 3 layers and 2 widths, exhaustive tries up to 26: fewer layers (at) or widths, a larger "
        "`most`, or another searcher"
    )  # fmt: skip


def test_greedy_takes_the_best_one_more_until_none_is() -> None:
    known = Known((0.02, 0.03), (0.03, 0.05), (-0.01, -0.01), together=-1.0)
    found = search(space(share=0.2), known, Greedy())
    singles = [{"l0": 0.1}, {"l0": 0.2}, {"l1": 0.1}, {"l1": 0.2}, {"l2": 0.1}, {"l2": 0.2}]
    pairs = [{"l0": 0.1, "l1": 0.2}, {"l0": 0.2, "l1": 0.2}, {"l1": 0.2, "l2": 0.1}, {"l1": 0.2, "l2": 0.2}]
    assert known.asked[:7] == [{}, *singles]
    assert known.asked[7 : 7 + len(pairs)] == pairs
    assert all(one.within for one in found.tried.values())
    assert found.best.at == {"l0": 0.2, "l1": 0.2}
    assert len(search(space(share=0.05), Known(*THREE), Greedy(evaluations=2)).tried) == 3


def test_random_tries_each_once_and_keeps_the_budget_where_asked() -> None:
    known = Known(*THREE)
    found = search(space(), known, Random(evaluations=None))
    assert len(found.tried) == len(known.asked) == 27
    inside = search(space(), Known(*THREE), Random(evaluations=None, within=True))
    assert all(one.within for one in inside.tried.values())
    assert len(inside.tried) == sum(one.within for one in found.tried.values())
    orders = [list(search(space(), known, Random(evaluations=5, seed=seed)).tried) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_placements_are_drawn_evenly() -> None:
    here, draw = space(), torch.Generator().manual_seed(0)
    for within in (True, False):
        even = Even(here, within)
        counts = Counter(even(20_000, draw))
        assert sorted(counts) == even.all()
        assert len(counts) == (12 if within else 27)
        expected = 20_000 / len(counts)
        chi2 = sum((one - expected) ** 2 / expected for one in counts.values())
        assert chi2 < len(counts) - 1 + 5 * (2 * (len(counts) - 1)) ** 0.5


def test_an_untrained_policy_is_even_and_walks_as_one_would_by_hand() -> None:
    here = space()
    every = Even(here, True).all()
    policy = Policy(here, 8)
    assert not policy(steps_of(here, every)).any()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
        for actions, told in zip(every, policy(steps_of(here, every)), strict=True):
            state, total = None, 0.0
            for i, action in enumerate(actions):
                state = policy.cell(here.observe(actions[:i])[None], state)
                total += float(policy.head(state)[0, action] + policy.layers[i, action])
            assert float(told) == pytest.approx(total, abs=1e-5)


def test_reinforce_tries_each_once() -> None:
    known = Known(*THREE)
    found = search(space(), known, Reinforce(evaluations=None))
    assert sorted(found.tried) == Even(space(), True).all()
    assert len(known.asked) == 12


@pytest.mark.parametrize("searcher", [Reinforce(evaluations=8), Random(evaluations=8, within=True)])
def test_a_budget_that_hardly_anything_keeps_is_searched(searcher: AnySearcher) -> None:
    """43 million placements, four of which keep it."""
    here = space(layers=16, share=0.05)
    found = search(here, Known(*[(0.02, 0.03)] * 16), searcher)
    assert sorted(json.dumps(one.at) for one in found.tried.values()) == [
        '{"l0": 0.1}',
        '{"l0": 0.2}',
        '{"l1": 0.1}',
        "{}",
    ]


def test_reinforce_is_ahead_of_random_after_few_evaluations() -> None:
    """12 evaluations of some 40 within the budget: better in the mean of ten seeds, of gains that add and of others."""
    here = space(layers=4, share=0.2)
    for together in (0.0, -0.04):
        mean = {}
        for searcher in (Reinforce(evaluations=12), Random(evaluations=12, within=True)):
            runs = [
                search(
                    here,
                    Known((0.01, 0.02), (0.03, 0.05), (0.01, 0.01), (0.04, 0.03), together=together),
                    searcher.model_copy(update={"seed": seed}),
                )
                for seed in range(10)
            ]
            mean[searcher.kind] = fmean(one.best.reward for one in runs)
        assert mean["reinforce"] > mean["random"]


def test_reinforce_learns_where_side_paths_pay() -> None:
    """A3.8 on a reward that is known: 2187 placements, 80 evaluations, five seeds, at least as good as random ones."""
    here = space(layers=7, share=1.0)
    gains = [(0.03, 0.05), (-0.03, -0.05)] * 3 + [(0.04, 0.02)]
    most = 0.5 + 3 * 0.05 + 0.04
    scores: dict[str, list[float]] = {"reinforce": [], "random": []}
    for seed in range(5):
        for searcher in (Reinforce(evaluations=80, seed=seed), Random(evaluations=80, seed=seed)):
            known = Known(*gains)
            best = search(here, known, searcher).best
            assert len(known.asked) <= 81
            scores[searcher.kind].append(best.mean / 100)
    for learned, drawn in zip(*scores.values(), strict=True):
        assert learned >= drawn
    assert scores["reinforce"] == pytest.approx([most] * 5)
    assert max(scores["random"]) < most - 0.01


def test_reinforce_keeps_the_budget_or_pays_for_it() -> None:
    inside = search(space(), Known(*THREE), Reinforce(evaluations=9))
    assert all(one.within for one in inside.tried.values())
    free = search(space(), Known(*THREE), Reinforce(evaluations=26, within=False, lr=0.001))
    assert not all(one.within for one in free.tried.values())
    assert free.best.within


def test_ppo_is_an_adapter() -> None:
    pytest.importorskip("stable_baselines3", reason="PPO needs stable-baselines3: pip install 'bitline[rl]'")
    before = torch.random.get_rng_state()
    runs = [search(space(), Known(*THREE), Ppo(evaluations=12, seed=seed)) for seed in (0, 0)]
    assert list(runs[0].tried) == list(runs[1].tried)
    assert len(runs[0].tried) == 13
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_environment_is_one_of_gymnasium() -> None:
    pytest.importorskip("gymnasium", reason="the environment needs gymnasium: pip install 'bitline[rl]'")
    from gymnasium.utils.env_checker import check_env

    from bitline.place.environment import PlacementEnv

    known = Known(*THREE)
    env = PlacementEnv(Trials(space(), known))
    check_env(env, skip_render_check=True)
    seen, _ = env.reset(seed=3)
    assert env.observation_space.contains(seen)
    steps = [env.step(action) for action in (1, 0, 1)]
    assert [(reward, done) for _, reward, done, _, _ in steps[:2]] == [(0.0, False)] * 2
    _, reward, done, _, info = steps[2]
    assert done
    assert info["at"] == {"l0": 0.1, "l2": 0.1}
    assert reward == env.trials.best.reward


@pytest.mark.parametrize("absent", ["gymnasium", "stable_baselines3"])
def test_an_absent_extra_is_one_line(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.delitem(sys.modules, "bitline.place.environment", raising=False)
    known = Known(*THREE)
    with pytest.raises(ImportError, match=r"^.*: pip install 'bitline\[rl\]'$"):
        search(space(), known, Ppo())
    assert not known.asked  # before anything is measured
    assert absent.replace("_", "-") in (Ppo().missing() or "")
    assert all(one.missing() is None for one in SEARCHERS)


def test_a_searcher_that_is_not_installed_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    for command in ("place", "harden"):
        arguments = [command, str(tmp_path / "tiny.yaml"), "--searcher", "ppo", "--out", str(tmp_path / "out")]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2
        assert "ppo needs stable-baselines3: pip install 'bitline[rl]'" in " ".join(done.output.split())
    assert not (tmp_path / "out" / "train").exists()


# ------------------------------------------------------------------------------------------------------------- trials


@each_searcher
def test_nothing_is_measured_twice(searcher: AnySearcher, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    known = Known(*THREE)
    first = search(space(), known, searcher, file)
    assert len(known.asked) == len({json.dumps(one) for one in known.asked}) == len(first.tried)
    again = Known(*THREE, stop=0)
    second = search(space(), again, searcher, file)
    assert not again.asked
    assert second.tried == first.tried
    other = Known(*THREE)
    everything = search(space(), other, Exhaustive(), file)
    assert len(other.asked) == 27 - len(first.tried)
    assert everything.best.reward >= first.best.reward


@each_searcher
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_an_interrupted_search_ends_as_if_it_had_not_been(searcher: AnySearcher, stop: int, tmp_path: Path) -> None:
    whole = search(space(), Known(*THREE), searcher)
    file, broken = tmp_path / "trials.jsonl", Known(*THREE, stop=stop)
    with pytest.raises(KeyboardInterrupt):
        search(space(), broken, searcher, file)
    with file.open("a") as end:
        end.write('{"at": {"l0": 0.1}, "accur')  # killed in the middle of a line
    rest = Known(*THREE)
    found = search(space(), rest, searcher, file)
    assert list(found.tried.items()) == list(whole.tried.items())
    assert len(broken.asked) + len(rest.asked) == len(whole.tried)


# --------------------------------------------------------------------------------------------------- a network, in all


FEW: dict[str, Any] = {
    "widths": (0.25, 0.5),
    "at": ["0", "6"],
    "keep": 1.0,
    "training": TrainConfig(steps=2, lr=0.05),
    "chips": 2,
}


def curve(net: torch.nn.Module) -> dict[str, float]:
    found = injected_from(net, lambda: batches(0), 2)
    return {name: float(right.double().mean()) for name, right in found.items()}


def test_costs_of_placements_add_up() -> None:
    """What a placement costs by its parts is what the network with its side paths costs."""
    design = macro(
        inputs={"kind": "unsigned", "bits": 4, "digit_bits": 1},
        weights={"kind": "differential", "bits": 4, "cell_bits": 3},
        variation=None,
        converter={"bits": 6},
    )
    net = model(design)
    known = {"0": 0.5, "3": 0.6, "6": 0.7, "8": 0.8}
    here = space_of(net, X[:1], known, 1.0, path=CorrectNet(), widths=(0.25, 0.5), budget=Budget(of="energy"))
    assert [one.layer for one in here.candidates] == ["0", "3", "6", "8"]
    assert [one.lost for one in here.candidates] == pytest.approx([0.1, 0.1, 0.1, 0.2])
    assert [(one.channels, one.positions) for one in here.candidates][:2] == [((18, 4), 9), ((16, 6), 4)]
    actions = (2, 0, 1, 1)
    *_, total = side_costs(Compensate(at=here.named(actions)).put(model(design)), X[:1])
    share = here.share(actions)
    assert share.parameters == pytest.approx(total.parameter_share)
    assert share.macs == pytest.approx(total.mac_share)
    assert share.energy == pytest.approx(next(iter(total.energy_shares.values())))
    assert here.overhead(actions) == share.energy


def test_a_network_is_placed(tmp_path: Path) -> None:
    net, told = model(), []
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = bl.place(
        net, batches, batches(0), budget="40%", searcher=Exhaustive(), out=tmp_path, tell=told.append, **FEW
    )
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert len(found.tried) == 9
    assert found.tried[0].at == {}
    assert found.best.reward == max(one.reward for one in found.tried if one.within)
    assert found.tried[0].reward == pytest.approx(
        (found.tried[0].mean - found.tried[0].std) / 100 / found.space.original
    )
    assert Placed.model_validate_json(found.model_dump_json()) == found
    assert placement_table(found).row_count == 9
    assert told[1] == "9 placements beside 0, 6, widths 0.25, 0.5"
    # what was measured is there for another searcher, and one placement is what a method gives
    files = list(tmp_path.glob("*.jsonl"))
    size = files[0].stat().st_size
    again = place(net, batches, batches(0), budget=0.4, searcher=Reinforce(evaluations=4), out=tmp_path, **FEW)
    assert [one in found.tried for one in again.tried] == [True] * len(again.tried)
    assert list(tmp_path.glob("*.jsonl")) == files
    assert files[0].stat().st_size == size


def test_a_row_is_one_of_methods(tmp_path: Path) -> None:
    found = place(
        model(),
        batches,
        batches(0),
        searcher=Greedy(evaluations=1),
        path=LowRank(),
        budget=9.0,
        **FEW | {"widths": [1, 2]},
    )
    method = Compensate(path=LowRank(weights="analog"), at={"0": 2.0}, after={"kind": "error_aware"})
    told = found.model_copy(update={"method": method}).row
    assert told == (
        "- {kind: compensate, path: {kind: low_rank, weights: analog}, at: {'0': 2.0}, after: {kind: error_aware}}"
    )
    (row,) = yaml.safe_load(told)
    kind: TypeAdapter[Any] = TypeAdapter(AnyMethod)
    assert kind.validate_python(row) == method
    assert found.model_copy(update={"method": None}).row.startswith("# nothing within the budget")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Budget.read("much"), "budget 'much': a share above 0 is expected, such as 5% or 0.05"),
        (lambda: Budget.read("0%"), "budget '0%'"),
        (lambda: place(model(), batches, batches(0), path=Trim()), "there is nothing to place"),
        (lambda: place(model(), batches, batches(0), widths=[0.0]), "one or more above 0 are expected"),
        (lambda: place(model(), batches, batches(0), widths=[9.0]), "width 9: input should be less"),
        (lambda: place(model(), batches, batches(0), keep=0.0), "no layer needs a side path"),
        (
            lambda: place(model(), batches, batches(0), budget=Budget(of="energy"), **FEW | {"chips": 1}),
            "a budget of energy cannot be told: 0: macro ln has continuous inputs",
        ),
        (
            lambda: place(model(), batches, batches(0), searcher=Exhaustive(most=8), **FEW | {"chips": 1}),
            "9 placements of 2 layers and 2 widths",
        ),
        (lambda: read_searcher("anneal"), "no kind 'anneal'; there are: reinforce, ppo, random, greedy, exhaustive"),
        (lambda: read_searcher({"kind": "reinforce", "lrate": 1}), "searcher.lrate: no such key; known: decay"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_searchers_are_read_from_their_kind_or_more() -> None:
    assert read_searcher("greedy") == Greedy()
    assert read_searcher({"kind": "reinforce", "lr": 0.1}, 7) == Reinforce(lr=0.1, evaluations=7)


@pytest.mark.parametrize(
    ("path", "widths", "message"),
    [
        ("low_rank", "0.125,0.25", "--widths 0.125,0.25: rank 0.125: input should be a valid integer, got a number"),
        ("low_rank", "0.125,0.25", "of kind 'low_rank' usual are 1, 2, 4"),
        ("sparse", "2", "--widths 2: share 2: input should be less than 1; of kind 'sparse' usual are 0.02, 0.05, 0.1"),
        ("vectors", "few", "--widths 'few': numbers with commas between are expected, such as 4,16"),
        ("correctnet", "0", "--widths 0: widths = [0.0]: one or more above 0 are expected"),
    ],
)
def test_sizes_that_a_path_cannot_have_are_refused_before_any_work(
    tmp_path: Path, path: str, widths: str, message: str
) -> None:
    tiny = TINY | {"methods": [{"kind": "compensate", "path": {"kind": path}}]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    done = CliRunner().invoke(
        app, ["place", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out"), "--widths", widths]
    )
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", [CorrectNet(), LowRank(), Vectors(), Sparse()], ids=lambda path: path.kind)
def test_sizes_are_the_paths_own_unless_given(path: AnyPath) -> None:
    assert sizes_of(path) == path.SIZES
    assert sizes_of(path, [path.SIZES[1], 0, path.SIZES[0], path.SIZES[1]]) == path.SIZES[:2]


def test_the_command_places(tmp_path: Path) -> None:
    tiny = TINY | {"methods": [{"kind": "qat"}, {"kind": "compensate", "at": ["conv*"], "after": {"kind": "qat"}}]}
    tiny |= {"float_training": {"epochs": 8, "lr": 0.1}, "data": TINY["data"] | {"train_images": 400}}
    tiny |= {"test": PLAIN["test"], "training": {"epochs": 1, "lr": 0.01, "clip": 1.0}}
    tiny["macro"] = {"name": "ln", "rows": 64, "columns": 64, "variation": {"kind": "lognormal", "sigma": 0.8}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    common = ["place", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out"), "--keep", "100%", "--of", "macs"]
    few = ["--budget", "60%", "--widths", "0.25", "--steps", "2", "--chips", "2", "--images", "64"]
    done = CliRunner().invoke(app, [*common, *few, "--searcher", "exhaustive"])
    assert done.exit_code == 0, done.output
    found = Placed.load(tmp_path / "out" / "place.json")
    assert "Placements" in done.output
    assert found.row in done.output
    assert len(found.tried) == found.space.size == 2 ** len(found.space.candidates)
    assert all(one.layer.startswith("conv") for one in found.space.candidates)
    again = CliRunner().invoke(
        app, [*common, *few, "--searcher", "{kind: random, seed: 1}", "--evaluations", "3", "--json"]
    )
    assert again.exit_code == 0, again.output
    other = Placed.model_validate_json(again.stdout)
    assert [one in found.tried for one in other.tried] == [True] * 4
    for more, message in (
        (["--method", "qat"], "--method qat: side paths of a `compensate` are placed"),
        (["--budget", "x"], "budget 'x'"),
        (["--keep", "95"], "keep '95': a share up to 100% is expected: did you mean 95%?"),
        (["--widths", "a"], "--widths 'a': numbers with commas between"),
        (["--images", "2000"], "leave none of 400 to train with"),
    ):
        refused = CliRunner().invoke(app, [*common, *few, *more])
        assert refused.exit_code == 2
        assert message in " ".join(refused.output.split())
    # the row trains, and its result tells what the side paths cost
    placed = tiny | {"methods": yaml.safe_load(found.row) if found.method else tiny["methods"]}
    (tmp_path / "placed.yaml").write_text(yaml.safe_dump(placed))
    done = CliRunner().invoke(app, ["run", str(tmp_path / "placed.yaml"), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (rows,) = result["overheads"].values()
    assert rows[-1]["side_macs"] > 0
    assert "What side paths cost" in (tmp_path / "run" / "report.html").read_text()
