"""The whole walk on a virtual board: characterise, fit, put a network on it, export, replay; and what may go wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from bitline import lab, presets
from bitline.cli import app
from bitline.lab.counts import Counts
from bitline.lab.faults import Faults
from bitline.lab.running import wilson
from bitline.lab.serve import Served
from bitline.lab.significance import f_survival, holm, survival
from bitline.lab.sweep import VECTORS
from bitline.macro import Chip, Macro, curve_errors, fit_curve, fit_table
from bitline.methods import DNat
from bitline.nn import calibrate, convert
from bitline.samples import Samples
from bitline.train import TrainConfig, train

ARRAYS, LOW, CODES = 3, -4.0, 64
RARELY = ("--alpha", 1e-4)  # a network trained a little differently must not fail by chance
HIDDEN: dict[str, Any] = {
    "name": "hidden",
    "rows": 64,
    "columns": 64,
    "columns_per_adc": 4,
    "inputs": {"kind": "unsigned", "bits": 4},
    "weights": {"kind": "twos_complement", "bits": 4},
    "column": {
        "kind": "curve",
        "sigma": {"kind": "polynomial", "coefficients": [0.5]},
        "gain_sigma": 0.01,
        "offset_sigma": 0.3,
    },
    "converter": {"kind": "adc", "bits": 6, "range": {"kind": "fixed", "low": LOW, "high": LOW + CODES - 1}},
}
MACRO = Macro.model_validate(HIDDEN)
DIE = Chip(1234, 7)


def board(**how: Any) -> lab.Board:
    return lab.Board(MACRO, DIE, ARRAYS, **how)


def fitted(samples: Samples) -> Macro:
    """The measured die itself."""
    table = fit_table(samples, per="column", assign="physical", low=LOW, codes=CODES, least=4, reach=8)
    kept = {name: HIDDEN[name] for name in ("rows", "columns", "columns_per_adc", "inputs", "weights")}
    placement = {"kind": "reload", "arrays": ARRAYS}
    return Macro.model_validate({**kept, "name": "measured", "column": table, "placement": placement})


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    held = load_digits()
    return torch.tensor(held.images / 16.0, dtype=torch.float32)[:, None], torch.tensor(held.target)


def network(images: Tensor, labels: Tensor) -> nn.Module:
    """A small network, trained in a second."""
    torch.manual_seed(0)
    parts = [nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16), nn.ReLU()]
    net = nn.Sequential(*parts, nn.Linear(16, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        some = torch.randperm(len(images))[:256]
        loss = nn.functional.cross_entropy(net(images[some]), labels[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@dataclass
class Walk:
    """What the walk leaves behind."""

    folder: Path
    samples: Samples
    macro: Macro
    bundle: Path


@contextmanager
def emulated(folder: Path, *options: str, macro: str = "hidden.yaml", arrays: int = ARRAYS) -> Iterator[dict[str, str]]:
    """The addresses of a virtual board in a process of its own."""
    from yaml import safe_dump

    (folder / "hidden.yaml").write_text(safe_dump(HIDDEN))
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    die = ["--seed", str(DIE.seed), "--chip", str(DIE.number), "--arrays", str(arrays), "--pty", "--ready", str(ready)]
    described = str(folder / macro) if macro.endswith(".yaml") else macro
    command = [sys.executable, "-m", "bitline", "lab", "emulate", described, *die, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        assert addresses == json.loads(ready.read_text())
        yield addresses
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["lab", *map(str, arguments)])


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Characterised over TCP, 300 000 conversions; fitted; exported with 600 images."""
    folder = tmp_path_factory.mktemp("lab")
    out = folder / "chip.parquet"
    with emulated(folder) as addresses:
        many = ["--out", out, "--conversions", 300_000, "--low", LOW]
        done = command("characterize", addresses["tcp"], *many)
        assert done.exit_code == 0, done.output
    samples = Samples.load(out)
    macro = fitted(samples)
    images, labels = digits()
    model = calibrate(convert(network(images[:1197], labels[:1197]), macro), [images[:256]], 1)

    def batches(epoch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        order = torch.randperm(1197, generator=torch.Generator().manual_seed(epoch))
        return [(images[some], labels[some], some) for some in order.split(64)]

    train(model, batches, config=TrainConfig(epochs=4, lr=0.02), method=DNat(), progress=False)
    made = lab.export(model, images=(images[1197:], labels[1197:]), samples=samples)
    lab.save(made, folder / "bundle")
    return Walk(folder, samples, macro, folder / "bundle")


# ------------------------------------------------------------------------------------------------------- the whole loop


def test_the_sweep_is_whole(walk: Walk) -> None:
    samples = walk.samples
    assert samples.column is not None
    assert samples.read is not None
    assert samples.x is not None
    assert samples.w is not None
    assert len(samples) >= 300_000
    assert len(samples) == VECTORS * 64 * ARRAYS * -(-300_000 // (VECTORS * 64 * ARRAYS))
    assert len(np.unique(np.stack([samples.column, samples.read]), axis=1)[0]) == len(samples)
    np.testing.assert_array_equal(np.unique(samples.column), np.arange(64 * ARRAYS))
    np.testing.assert_array_equal((samples.x.astype(int) * samples.w).sum(1), samples.ideal)
    assert set(range(65)) == set(samples.ideal)
    assert not (walk.folder / "chip.parquet.parts").exists()


def test_the_log_becomes_the_macro(walk: Walk, tmp_path: Path) -> None:
    """`bitline fit` writes what the library fits, scale and codes from the log, and a picture of it."""

    def fit(*options: object) -> Any:
        arguments = ["fit", walk.folder / "chip.parquet", walk.folder / "hidden.yaml", "--out", tmp_path / "chip.yaml"]
        return CliRunner().invoke(app, [str(one) for one in (*arguments, *options)])

    die = ("--per", "column", "--physical", "--arrays", ARRAYS, "--least", 4, "--reach", 8)
    done = fit(*die, "--picture", tmp_path / "errors.svg")
    assert done.exit_code == 0, done.output
    found = Macro.load(tmp_path / "chip.yaml")
    assert found.column == walk.macro.column
    assert found.placement == walk.macro.placement
    assert "virtual" in found.source
    for told in ("192 tables", "borrowed from a neighbour", "frozen with a column", "a Gaussian about the ideal code"):
        assert told in done.output
    assert "fitted Gaussian" in (tmp_path / "errors.svg").read_text()
    pooled = fit("--where", "chip=0", "--where", "read=0", "--least", 1, "--reach", 64)
    assert pooled.exit_code == 0, pooled.output
    assert "not told apart" in pooled.output  # one read of each column
    for options, wrong in (
        (("--where", "chip=9"), "has no rows where chip=9"),
        (("--where", "kelvin=300"), "--where kelvin: "),
        (("--where", "chip"), "expected column=value"),
        (("--per", "bank"), "how many columns"),
        (("--per", "column", "--reach", 0), "lack reads"),
    ):
        refused = fit(*options)
        assert refused.exit_code != 0
        assert wrong in refused.output


def recovered(samples: Samples) -> None:
    """Within four standard errors a curve fitted to the log has the hidden parameters, and the errors are small."""
    some = samples.select(ideal=np.arange(2, 51))
    found, errors = fit_curve(some, low=LOW, codes=CODES), curve_errors(some, low=LOW, codes=CODES)
    for name, error in (("gain_sigma", errors.gain_sigma), ("offset_sigma", errors.offset_sigma)):
        hidden = HIDDEN["column"][name]
        assert getattr(found, name) == pytest.approx(hidden, abs=4 * error)
        assert error < 0.15 * hidden
    assert found.sigma is not None
    (hidden,) = HIDDEN["column"]["sigma"]["coefficients"]
    noise = found.sigma.at(torch.from_numpy(errors.ideal.astype(np.float64)), 64.0).numpy()
    assert (abs(noise - hidden) < 4 * errors.sigma).all()
    assert (errors.sigma < 0.1 * hidden).all()


def test_the_log_of_the_walk_gives_the_hidden_parameters(walk: Walk) -> None:
    recovered(walk.samples)


@pytest.mark.parametrize("stream", ["tcp", "serial"])
def test_the_hidden_parameters_are_recovered(stream: str, tmp_path: Path) -> None:
    """From the log of a link, within four standard errors: σ/√(2·columns) of a spread over columns, as fit_curve
    estimates them."""
    if stream == "serial":
        pytest.importorskip("serial", reason="pySerial is not installed: no board on a serial line")
    hidden = {"sigma": {"kind": "polynomial", "coefficients": [0.5, 0.3]}, "gain_sigma": 0.02, "offset_sigma": 0.5}
    macro = Macro.model_validate({**HIDDEN, "column": {"kind": "curve", **hidden}})
    here = Served(lab.Board(macro, Chip(99, 1), ARRAYS))
    address = f"serial:{here.pty()}" if stream == "serial" else f"tcp://127.0.0.1:{here.listen('frames')}"
    instrument = lab.connect(address, timeout=5.0)
    samples = lab.characterize(instrument, tmp_path / "chip.parquet", conversions=300_000, low=LOW)
    instrument.link.close()
    here.close()
    some = samples.select(ideal=np.arange(2, 51))
    found, errors = fit_curve(some, low=LOW, codes=CODES), curve_errors(some, low=LOW, codes=CODES)
    columns = 64 * ARRAYS
    assert found.gain_sigma == pytest.approx(0.02, abs=4 * 0.02 / np.sqrt(2 * columns))
    assert found.offset_sigma == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(2 * columns))
    assert found.sigma is not None
    for u in (8.0, 24.0, 48.0):
        at = torch.tensor([u], dtype=torch.float64)
        assert found.sigma.at(at, 64.0).item() == pytest.approx(0.5 + 0.3 * u / 64, rel=0.06)
        error = errors.sigma[np.searchsorted(errors.ideal, u)]
        assert found.sigma.at(at, 64.0).item() == pytest.approx(0.5 + 0.3 * u / 64, abs=4 * error)
        assert error < 0.03
    for name, true in (("gain_sigma", 0.02), ("offset_sigma", 0.5)):
        error = getattr(errors, name)
        assert getattr(found, name) == pytest.approx(true, abs=4 * error)
        assert 0.6 < error / (true / np.sqrt(2 * columns)) < 1.8  # reads and a second parameter add to it


def test_a_sweep_over_a_serial_line_is_that_of_the_board_itself(tmp_path: Path) -> None:
    """Every read of 100 000 conversions, noise and all: the same die, asked without a wire. Its parameters come out."""
    pytest.importorskip("serial", reason="pySerial is not installed: no board on a serial line")
    near = lab.characterize(lab.Instrument(board()), tmp_path / "near.parquet", conversions=100_000, low=LOW)
    here = Served(board())
    instrument = lab.connect(f"serial:{here.pty()}", timeout=5.0)
    samples = lab.characterize(instrument, tmp_path / "line.parquet", conversions=100_000, low=LOW)
    instrument.link.close()
    here.close()
    assert len(samples) >= 100_000
    assert here.board.silicon.conversions == len(samples)
    assert samples == near
    assert len(np.unique(samples.code)) > CODES // 2
    recovered(samples)


@pytest.mark.parametrize(("name", "low"), [("generic-spice-sram-compact", 0.0), ("rram-a-128", -128.0)])
def test_presets_read_as_their_cells_and_curve_say(name: str, low: float, tmp_path: Path) -> None:
    """A circuit's fitted column and measured cells behind the link: codes about the closed form of mean and spread."""
    macro = presets.load(name)
    assert macro.cell is not None
    assert macro.converter is not None
    here = Served(lab.Board(macro, Chip(3, 1)))
    instrument = lab.connect(f"tcp://127.0.0.1:{here.listen('frames')}", timeout=10.0)
    samples = lab.characterize(instrument, tmp_path / "chip.parquet", conversions=8_000, low=low)
    here.close()
    assert samples.x is not None
    assert samples.w is not None
    (error,), x = macro.cell.errors, samples.x.astype(np.float64)
    w = torch.from_numpy(samples.w.astype(np.float64))
    held, spread = (value.numpy() for value in error.moments(w.abs(), macro.level_high))
    if instrument.identity.legs == 2:  # the other cell of a pair holds 0
        off, off_spread = (value.numpy() for value in error.moments(torch.zeros_like(w), macro.level_high))
        held, spread = np.sign(samples.w) * (held - off), np.hypot(spread, off_spread)
    mean, variance = (x * held).sum(1), (x**2 * spread**2).sum(1)
    if macro.column is not None:
        full = float(macro.rows * instrument.identity.digit_high)
        column: Any = macro.column
        under, at, over = (column.mean.at(torch.from_numpy(mean + more), full).numpy() for more in (-0.5, 0.0, 0.5))
        noise = column.sigma.at(torch.from_numpy(mean), full).numpy()
        mean, variance = at, (over - under) ** 2 * variance + noise**2
    inside = (mean > low + 8) & (mean < low + macro.converter.codes - 9)
    z = ((low + samples.code - mean) / np.sqrt(variance + 1 / 12))[inside]
    assert len(z) > 2_000
    assert abs(z.mean()) < 0.2
    assert z.std() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("name", "low"), [("generic-spice-sram-compact", 0.0), ("rram-a-128", -128.0)])
def test_a_preset_in_a_process_of_its_own_is_the_board_itself(name: str, low: float, tmp_path: Path) -> None:
    """A column fitted to ngspice, and measured cells: every code, noise and all."""
    few = {"conversions": 3_000, "low": low}
    near = lab.Board(presets.load(name), DIE, 2, serial=f"virtual-{DIE.number}")
    wanted = lab.characterize(lab.Instrument(near), tmp_path / "near.parquet", **few)
    with emulated(tmp_path, macro=name, arrays=2) as addresses:
        out = tmp_path / "chip.parquet"
        done = command("characterize", addresses["tcp"], "--out", out, "--conversions", 3_000, "--low", low)
    assert done.exit_code == 0, done.output
    assert Samples.load(out) == wanted
    assert len(np.unique(wanted.code)) > 20


def test_conditions_are_written_down_and_part_of_the_plan(tmp_path: Path) -> None:
    instrument, out = lab.Instrument(board()), tmp_path / "chip.parquet"

    def stopped(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.characterize(
            instrument, out, conversions=10_000, low=LOW, conditions={"temperature": 300}, progress=stopped
        )
    for other in (None, {"temperature": 301}, {"temperature": 300, "supply": 0.9}):
        with pytest.raises(ValueError, match="another plan or board"):
            lab.characterize(instrument, out, conversions=10_000, low=LOW, conditions=other)
    here = Served(board())
    address = f"tcp://127.0.0.1:{here.listen('frames')}"
    arguments = ["characterize", address, "--out", out, "--conversions", 10_000, "--low", LOW]
    done = command(*arguments, "--condition", "temperature=300")
    assert done.exit_code == 0, done.output
    assert here.board.silicon.conversions == 5 * VECTORS * 64  # of six steps one was there
    done = command(*arguments[:2], "--out", tmp_path / "hot.parquet", *arguments[4:], "--condition", "temperature=358")
    assert done.exit_code == 0, done.output
    one, hot = Samples.load(out), Samples.load(tmp_path / "hot.parquet")
    assert one.units["temperature"] == "K"
    both = Samples.concat([one, hot])
    assert set(both["temperature"]) == {300.0, 358.0}
    both.save(tmp_path / "both.parquet")
    with pytest.raises(ValueError, match="several conditions"):
        fit_table(both, low=LOW, codes=CODES)
    where = ["--where", "temperature=358", "--out", str(tmp_path / "hot.yaml"), "--least", "1", "--reach", "64"]
    (tmp_path / "hidden.yaml").write_text(json.dumps(HIDDEN))
    done = CliRunner().invoke(app, ["fit", str(tmp_path / "both.parquet"), str(tmp_path / "hidden.yaml"), *where])
    assert done.exit_code == 0, done.output
    for wrong, told in (
        ("kelvin=300", "condition 'kelvin' is unknown; known: temperature (K), supply (V)"),
        ("temperature=warm", "expected name=value, such as temperature=300"),
        ("temperature", "expected name=value"),
        ("temperature=300 temperature=301", "one value for each"),
        ("temperature=nan", "condition temperature = nan is no finite number"),
    ):
        done = command(*arguments, *(part for each in wrong.split() for part in ("--condition", each)))
        assert done.exit_code != 0
        assert told in " ".join(done.output.split())
    here.close()


@pytest.mark.parametrize("stream", ["tcp", "serial", "scpi"])
def test_replay_agrees_with_the_prediction_on_every_stream(walk: Walk, stream: str) -> None:
    if stream == "serial":
        pytest.importorskip("serial", reason="pySerial is not installed: no board on a serial line")
    with emulated(walk.folder, "--missed", "0.001") as addresses:
        done = command("program", walk.bundle, addresses[stream], "--tries", 6)
        assert done.exit_code == 0, done.output
        assert "read back" in done.output
        out = walk.folder / f"{stream}.json"
        done = command("replay", walk.bundle, addresses[stream], "--out", out, *RARELY)
        assert done.exit_code == 0, done.output
    found = lab.Replayed.model_validate_json(out.read_text())
    assert found.images == 600
    assert found.agrees
    assert found.interval[0] <= found.predicted <= found.interval[1]
    assert found.accuracy > 70
    assert found.agreement is not None
    assert not found.agreement.drifted
    assert found.agreement.columns > 100
    assert [line.name for line in found.agreement.layers] == ["0", "4", "6"]
    assert all(line.covered == 1 for line in found.agreement.layers)


def test_a_drifted_column_is_named_and_no_other(walk: Walk) -> None:
    with emulated(walk.folder, "--drift", "1.18=0.4") as addresses:
        done = command("replay", walk.bundle, addresses["tcp"], "--images", 300, "--json", *RARELY)
    assert done.exit_code == 3
    found = lab.Replayed.model_validate_json(done.stdout)
    assert found.agreement is not None
    (line,) = found.agreement.drifted
    assert line.name == "array 1 column 18"
    assert line.shift == pytest.approx(0.4, abs=0.1)
    assert {line.name for line in found.agreement.layers if not line.agrees} <= {"4"}


def test_another_die_is_told_apart(walk: Walk) -> None:
    other = lab.Instrument(lab.Board(MACRO, Chip(DIE.seed, DIE.number + 1), ARRAYS))
    found = lab.replay(lab.load(walk.bundle), other)
    assert found.agreement is not None
    assert len(found.agreement.drifted) > 3
    assert not found.agreement.layers[0].agrees


def test_replay_of_the_model_is_the_model(walk: Walk) -> None:
    """The bundle alone gives what the converted network gave, where nothing is drawn: an ideal macro, bit for bit."""
    kept = {name: HIDDEN[name] for name in ("rows", "columns", "inputs", "weights")}
    exact = Macro.model_validate({**kept, "name": "ideal", "converter": {"kind": "adc", "bits": 7}})
    images, labels = digits()
    net = network(images[:600], labels[:600])
    model = calibrate(convert(net, exact, plan="reference"), [images[:256]], 1).eval()
    bundle = lab.export(model, arrays=2)  # fewer than tiles: they take turns
    assert len({tile.array for layer in bundle.record.layers for tile in layer.tiles}) == 2
    with torch.no_grad():
        assert torch.equal(lab.predict(bundle, images[:50]), model(images[:50]))


# -------------------------------------------------------------------------------------------------- faults and resuming


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    here = Served(board())
    address = f"tcp://127.0.0.1:{here.listen('frames')}"
    out, conversions = tmp_path / "chip.parquet", 400_000
    arguments = ["lab", "characterize", address, "--out", out, "--conversions", conversions, "--low", LOW]
    before_it = set(threading.enumerate())
    process = subprocess.Popen([sys.executable, "-m", "bitline", *map(str, arguments)])
    parts = tmp_path / "chip.parquet.parts"
    while len(list(parts.glob("0*.parquet"))) < 3:
        assert process.poll() is None, "the sweep ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    for conversation in set(threading.enumerate()) - before_it:
        conversation.join(60)  # what was asked in flight is answered first, and counted
        assert not conversation.is_alive()
    before = {file.name: file.read_bytes() for file in parts.glob("0*.parquet")}
    made = here.board.silicon.conversions
    with pytest.raises(ValueError, match="another plan or board"):
        lab.characterize(lab.connect(address), out, conversions=conversions, low=LOW, seed=1)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    samples = Samples.load(out)
    steps = len(samples) // (VECTORS * 64)
    assert 3 <= len(before) < steps
    assert here.board.silicon.conversions - made == (steps - len(before)) * VECTORS * 64  # none measured again
    assert samples.column is not None
    assert samples.read is not None
    assert len(samples) >= conversions
    assert len(np.unique(samples.column * (1 << 32) + samples.read)) == len(samples)
    here.close()


SHARES = dict.fromkeys(("drop", "corrupt", "duplicate", "truncate", "delay"), 0.01)
SEED = 389  # each kind happens among the first messages, both ways


def swept(macro: Macro, faults: Faults, out: Path, stream: str = "tcp") -> Samples:
    """A sweep over a link with these faults: each happened, and each conversion was made once since the last start."""
    here = Served(lab.Board(macro, DIE, ARRAYS), faults)
    address = f"serial:{here.pty()}" if stream == "serial" else f"tcp://127.0.0.1:{here.listen('frames')}"
    instrument, starts = lab.connect(address, timeout=0.1, retries=8), list[int]()

    def measured(done: int, total: int) -> None:
        starts.append(instrument.link.boots)  # type: ignore[attr-defined]

    samples = lab.characterize(instrument, out, conversions=150_000, low=LOW, progress=measured)
    instrument.link.close()
    here.close()
    boots = 1 + (faults.reset is not None)
    assert here.board.boots == boots
    assert all(here.happened[kind] > 0 for kind in SHARES if getattr(faults, kind)), here.happened
    assert here.board.silicon.conversions == starts.count(boots) * VECTORS * 64
    assert len(starts) * VECTORS * 64 == len(samples)
    assert samples.column is not None
    assert samples.read is not None
    assert len(np.unique(samples.column * (1 << 32) + samples.read)) == len(samples)
    return samples


def test_a_sweep_over_a_bad_link_and_a_reset_is_the_same_sweep(tmp_path: Path) -> None:
    quiet = Macro.model_validate({**HIDDEN, "column": {**HIDDEN["column"], "sigma": None}})
    good = swept(quiet, Faults(), tmp_path / "good.parquet")
    assert swept(quiet, Faults(**SHARES, seed=SEED, reset=67, disconnect=44), tmp_path / "bad.parquet") == good


@pytest.mark.parametrize("stream", ["tcp", "serial"])
def test_a_noisy_die_reads_the_same_over_a_bad_link(stream: str, tmp_path: Path) -> None:
    """A board draws its noise by the number of the conversion: one lost or doubled would change all that follow."""
    if stream == "serial":
        pytest.importorskip("serial", reason="pySerial is not installed: no board on a serial line")
    faults = Faults(**SHARES, seed=SEED, disconnect=44 if stream == "tcp" else None)
    good = lab.characterize(lab.Instrument(board()), tmp_path / "good.parquet", conversions=150_000, low=LOW)
    assert swept(MACRO, faults, tmp_path / "bad.parquet", stream) == good


def test_a_board_reset_in_mid_replay_is_written_again(walk: Walk) -> None:
    here = Served(board(), Faults(reset=20))
    instrument = lab.connect(f"tcp://127.0.0.1:{here.listen('frames')}", timeout=0.5)
    found = lab.replay(lab.load(walk.bundle), instrument, alpha=1e-4)
    assert here.board.boots == 2
    assert found.agrees
    here.close()


def test_cells_that_do_not_take_their_level_are_named(walk: Walk) -> None:
    bundle = lab.load(walk.bundle)
    assert lab.program(bundle, lab.Instrument(board(missed=0.05)), tries=8) > 0
    with pytest.raises(lab.LinkError, match=r"array 0: \d+ cells differ after 1 more tries, the first at row"):
        lab.program(bundle, lab.Instrument(board(missed=0.9)), tries=1)


# ----------------------------------------------------------------------------------------------------------- statistics


def test_a_true_prediction_is_rarely_doubted() -> None:
    """Under the null hypothesis p is uniform or higher: 200 replays, each against its own characterisation."""
    rng = np.random.default_rng(0)
    low = 0
    for _ in range(200):
        mean = rng.uniform(5, 50, 40)
        predicted, seen = Counts(), Counts()
        for counts, n in ((predicted, 60), (seen, 400)):
            column = np.repeat(np.arange(40), n)
            code = np.round(rng.normal(mean[column], 0.8)).astype(int)
            counts.add(column, np.zeros_like(column), code)
        found = lab.reconcile(predicted, {"a": seen}, 64)
        low += found.layers[0].p < 0.05
        assert found.layers[0].covered == 1
    assert low <= 20  # 10 expected; P(> 20) = 0.1 %


def test_survival_and_holm_are_those_of_the_books() -> None:
    stats = pytest.importorskip("scipy.stats")
    for chi2, freedom in ((3.84, 1), (100.0, 80), (2500.0, 2300), (0.1, 7)):
        assert survival(chi2, freedom) == pytest.approx(stats.chi2.sf(chi2, freedom), rel=1e-6)
    assert survival(0.0, 0) == 1
    for ratio, above, below in ((30.0, 1, 3), (1.4, 48, 144), (0.2, 7, 2), (3.0, 2000, 40)):
        assert f_survival(ratio, above, below) == pytest.approx(stats.f.sf(ratio, above, below), rel=1e-9)
    assert f_survival(9.0, 3, 0) == 1
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert wilson(10, 10)[1] == pytest.approx(100)
    assert wilson(45, 50) == pytest.approx((78.64, 95.65), abs=0.01)  # Newcombe, Stat. Med. 1998, method 3


def test_sums_that_were_never_characterised_are_not_compared() -> None:
    predicted, seen = Counts(), Counts()
    predicted.add(np.zeros(100, int), np.zeros(100, int), np.zeros(100, int))
    seen.add(np.zeros(200, int), np.arange(200) % 2, np.zeros(200, int))
    (line,) = lab.reconcile(predicted, {"a": seen}, 64).layers
    assert line.covered == 0.5
    assert (line.chi2, line.freedom, line.p) == (0, 0, 1)
