"""Trials shared out over Ray workers: the bytes of one process, whatever dies."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

from bitline.cli import app
from bitline.evaluate import Ledger, Over, Workers, evaluate, ledger, over_chips
from bitline.experiment import Run, SweepRun, parse
from bitline.nn import convert, layers
from test_experiment import TINY, quiet
from test_sweep import SWEPT, TEST, analog

ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'bitline[ray]'")


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """One Ray for the whole file: who finds it running leaves it running."""
    started = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    started.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import what pytest found
    started.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield started
    assert started.is_initialized()
    started.shutdown()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return convert(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)), analog(0.3)).eval()


class KilledOnce:
    """A step before the test that kills its worker, the first time it meets chip 2."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, model: nn.Module, chip: int) -> None:
        if chip == 2 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Refusing:
    """A step that cannot be made on chip 1."""

    def __call__(self, model: nn.Module, chip: int) -> None:
        if chip == 1:
            raise ValueError("chip 1 is not for us")


@ray
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_workers_finds_the_same_bytes(local: Any, model: nn.Module, count: int) -> None:
    here = evaluate(model, TEST, chips=5, target=10.0, details=False)
    shared = evaluate(model, TEST, chips=5, target=10.0, details=False, workers=Workers(count=count))
    assert shared.model_dump_json() == here.model_dump_json()
    assert len(set(here.rows[1].per_chip)) > 1
    assert layers(model)["1"].macro == analog(0.3)


@ray
def test_workers_that_die_and_steps_that_fail(local: Any, model: nn.Module, tmp_path: Path) -> None:
    source = lambda: TEST  # noqa: E731
    with Workers(count=2).opened() as pool:
        kept = Ledger(tmp_path, "test", pool)
        right = kept.over_chips(model, "m", source, 5, 0, prepare=KilledOnce(tmp_path / "mark"))
        assert (tmp_path / "mark").exists()
        assert torch.equal(right, Ledger(None, "").over_chips(model, "m", source, 5, 0))
        assert set(ledger.read(next(tmp_path.glob("*.jsonl")))) == set(range(5))
        with pytest.raises(ValueError, match=r"^chip 1 is not for us$"):
            list(over_chips(model, source, 3, prepare=Refusing(), pool=pool))
        with pytest.raises(RuntimeError, match="0: its worker died 4 times"):
            list(pool.each(lambda item: os.kill(os.getpid(), signal.SIGKILL), [0]))
        assert dict(pool.each(lambda item, more: item + more, [1, 2, 3], pool.share(10))) == {1: 11, 2: 12, 3: 13}


@ray
def test_runs_and_sweeps_over_workers_write_the_same_bytes(local: Any, tmp_path: Path) -> None:
    """The whole walk of one process, of 1, 2 and 4: batch norm of each chip, per-layer sensitivity and all."""
    test = TINY["test"] | {"chips": 3, "recalibrate_per_chip": True}
    experiment = parse(SWEPT | {"test": test}, "test")
    over = [Over(key="macro.variation.sigma", values=(0.1, 0.3))]
    texts: dict[str, list[bytes]] = {"result.json": [], "sweep.json": [], "sweep.csv": []}
    for count in (0, 1, 2, 4):
        folder, workers = tmp_path / str(count), Workers(count=count) if count else None
        Run(experiment, folder, quiet, progress=False, workers=workers)()
        SweepRun(experiment, over, folder, tell=quiet, progress=False, workers=workers)()
        for name, found in texts.items():
            found.append((folder / name).read_bytes())
    assert all(found.count(found[0]) == 4 for found in texts.values())


@ray
def test_a_worker_killed_in_mid_sweep_loses_nothing(local: Any, tmp_path: Path) -> None:
    experiment = parse(SWEPT, "test")
    over = [Over(key="macro.variation.sigma", values=(0.1, 0.3))]
    SweepRun(experiment, over, tmp_path / "alone", tell=quiet, progress=False)()
    done, killed = threading.Event(), list[int]()

    def kill() -> None:
        """The first worker that is seen at work."""
        while not killed and not done.wait(0.01):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # processes end while they are listed
                    if file.read_bytes().startswith(b"ray::_Worker.work"):
                        os.kill(int(file.parent.name), signal.SIGKILL)
                        killed.append(int(file.parent.name))
                        break

    killer = threading.Thread(target=kill)
    killer.start()
    SweepRun(experiment, over, tmp_path / "shared", tell=quiet, progress=False, workers=Workers(count=2))()
    done.set()
    killer.join()
    assert killed
    for name in ("sweep.json", "sweep.csv"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_without_ray_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"Ray, which is not installed: pip install 'bitline\[ray\]'"):
        evaluate(nn.Identity(), TEST, workers=Workers(count=2))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    done = CliRunner().invoke(app, ["run", str(tmp_path / "tiny.yaml"), "--workers", "2", "--out", str(tmp_path / "o")])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'bitline[ray]'" in done.stderr


def test_one_process_does_not_look_for_ray(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert evaluate(model, TEST, chips=1, details=False).rows[1].chips == 1
