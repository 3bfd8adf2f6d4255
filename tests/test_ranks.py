"""Training by two processes that torchrun started: one process's losses, chips of their own, one who writes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from typer.testing import CliRunner

import two_ranks
from bitline.cli import app
from bitline.experiment import Run, parse
from bitline.train import CheckpointError, TrainConfig, train
from bitline.train.ranks import Ranks
from test_experiment import TINY

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="this torch has no gloo")


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    path = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("ranks")
    done = torchrun(two_ranks.__file__, here)
    assert done.returncode == 0, done.stderr[-3000:]
    return here


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_two_ranks_on_one_chip_have_the_losses_of_one_process(ranks: list[dict[str, Any]]) -> None:
    losses, _, chips = two_ranks.trained(two_ranks.CONTINUOUS)
    assert len(losses) == 20
    for seen in ranks:
        assert seen["one chip"][0] == pytest.approx(losses, abs=1e-5)
        assert seen["one chip"][1] == chips
    assert max(losses) - min(losses) > 0.1  # that is: they moved


def test_reads_are_keyed_by_the_sample_not_by_its_place_in_a_share(ranks: list[dict[str, Any]]) -> None:
    losses, _, _ = two_ranks.trained(two_ranks.NOISY, steps=1)
    assert [seen["noisy"] for seen in ranks] == [pytest.approx(losses, abs=1e-6)] * 2
    quiet = two_ranks.NOISY.model_copy(update={"cell": two_ranks.NOISY.cell.model_copy(update={"read_sigma": None})})
    assert abs(two_ranks.trained(quiet, steps=1)[0][0] - losses[0]) > 1e-4  # there is noise to be keyed


def test_by_default_no_two_steps_on_any_rank_meet_the_same_chip(ranks: list[dict[str, Any]]) -> None:
    first, second = (seen["chips"] for seen in ranks)
    assert len(first) == len(second) == 20
    assert len({*first, *second}) == 40
    assert not any("chip" in name or "silicon" in name for name in ranks[0]["state"])


def test_ranks_end_with_the_same_network(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["losses"] == ranks[1]["losses"]
    assert ranks[0]["weights"] == ranks[1]["weights"]  # batch norm's statistics among them
    assert any("running_mean" in name for name in ranks[0]["state"])


def test_the_first_rank_alone_writes(folder: Path, ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["saves"] == [3, 3, 6, 6, 9, 9, 12, 12, 15, 15, 18, 18, 20]  # every 3 steps and at epochs' ends
    assert ranks[1]["saves"] == []
    assert len((folder / "whole" / "log.jsonl").read_text().splitlines()) == 20


@pytest.mark.parametrize(("how", "kind", "step"), [("stopped", "Stop", 9), ("interrupted", "KeyboardInterrupt", 11)])
def test_a_run_that_was_cut_short_ends_as_if_it_had_not_been(ranks: Any, how: str, kind: str, step: int) -> None:
    """Ctrl-C on one rank stops all of them after the same step."""
    for seen in ranks:
        assert (seen[how], seen[f"{how} at"], seen[f"{how} alike"]) == (kind, step, True)


def test_a_loss_that_is_not_finite_stops_all_ranks(ranks: list[dict[str, Any]]) -> None:
    first, second = (seen["poisoned"] for seen in ranks)
    assert first == "the loss is nan at step 1 (epoch 0), that of another rank"
    assert "the loss is nan at step 1 (epoch 0), on samples " in second


def test_a_run_goes_on_with_as_many_ranks(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "whole", tmp_path, dirs_exist_ok=True)
    assert len(two_ranks.trained(two_ranks.CONTINUOUS, tmp_path, norm=True)[0]) == 20  # finished: only loaded
    record = json.loads((tmp_path / "latest.json").read_text())
    (tmp_path / "latest.json").write_text(json.dumps(record | {"done": False}))
    with pytest.raises(CheckpointError, match=r"a run by 2 ranks, and this is one by 1.*--nproc-per-node 2"):
        two_ranks.trained(two_ranks.CONTINUOUS, tmp_path, norm=True)


def test_processes_that_are_not_joined_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"2 processes that are not joined: call torch.distributed.init_process"):
        train(two_ranks.network(two_ranks.CONTINUOUS), two_ranks.batches, config=TrainConfig(steps=1))


@pytest.mark.parametrize("samples", [1, 6, 7])
def test_shares_are_the_whole_batch(samples: int) -> None:
    batch = (torch.randn(samples, 2), torch.arange(samples), torch.arange(samples) + 5)
    shares = [Ranks(rank, 3).share(batch) for rank in range(3)]
    assert max(len(s[2]) for s in shares) - min(len(s[2]) for s in shares) <= 1
    for i in range(3):
        assert torch.equal(torch.cat([share[i] for share in shares]), batch[i])


def test_the_command_trains_by_ranks_and_tests_in_one_process(folder: Path, ranks: list[dict[str, Any]]) -> None:
    assert [seen["command"][0] for seen in ranks] == [0, 0], ranks[0]["command"][1]
    assert ["saved under" in seen["command"][1] for seen in ranks] == [True, False]
    trained = next((folder / "tiny" / "train").glob("*error-aware-*"))
    before = (trained / "latest.json").read_bytes()
    assert json.loads(before)["ranks"] == 2
    plain = TINY | {"methods": [{"kind": "error_aware"}], "test": {"chips": 1, "details": False, "recalibrate": False}}
    rows = Run(parse(plain, "test"), folder / "tiny", lambda line: None, progress=False)().rows
    assert [row.method for row in rows] == ["float", "ideal macro", "untrained on chips", "error-aware"]
    assert (trained / "latest.json").read_bytes() == before


def test_only_training_is_for_torchrun(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = CliRunner().invoke(app, ["run", str(folder / "tiny.yaml")])
    assert done.exit_code == 2
    assert "error: torchrun is for `bitline train`" in done.stderr
