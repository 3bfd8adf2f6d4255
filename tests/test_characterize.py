"""`bitline characterize`: what it refuses before it simulates, and what it leaves when it is stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bitline.circuits import spice
from bitline.circuits.spice import Circuit, SimulationError, Simulator, characterize
from bitline.circuits.spice.characterize import named
from bitline.cli import app
from bitline.macro import behaviour_of, fit_behaviour, model_circuit, spread_pool, with_dice
from bitline.macro.behaviour import DICE
from bitline.macro.characterised import shape_of
from bitline.samples import Samples
from test_spice import NETLIST, described, fake, needs_ngspice, own, runs


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def running(log: Path) -> list[str]:
    """Those of the processes named in ``log`` that run."""
    named = log.read_text().split() if log.exists() else []
    states = {pid: subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True) for pid in named}
    return [pid for pid, state in states.items() if state.stdout.strip() and not state.stdout.startswith("Z")]


def test_what_cannot_be_is_refused_before_anything_is_simulated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = fake(tmp_path)
    described(tmp_path)
    (tmp_path / "plain").mkdir()
    described(tmp_path / "plain", NETLIST.replace("+{{mismatch.cell}}", ""), mismatch={})
    table = Samples(ideal=np.zeros(2, int), code=np.zeros(2, int), w=np.zeros((2, 4), int))
    table.save("table.csv")
    for circuit, options, message in (
        (
            "own.yaml",
            ["--vectors", "table.csv"],
            "--vectors table.csv: no column 'x'; a pool is x and w of samples, it has:",
        ),
        ("own.yaml", ["--out", "e.txt"], "e.txt: samples are kept in .parquet or .csv, not '.txt'"),
        ("own.yaml", ["--model", "m.yaml", "--dice", 31], "31 dice: mismatch of cell needs 32 or more"),
        ("plain/own.yaml", ["--dice", 40], "40 dice: circuit own has no `mismatch` devices"),
        ("plain/own.yaml", ["--model", "m.yaml", "--dice", 40], "40 dice: circuit own has no `mismatch` devices"),
    ):
        done = call("characterize", circuit, "--out", "s.csv", *options, "--ngspice", program)
        assert done.exit_code == 2, done.output
        assert message in " ".join(done.output.split())
    assert runs(tmp_path) == 0


def test_the_least_number_of_dice_is_what_the_fit_asks_for(tmp_path):
    circuit, rng = own(tmp_path), np.random.default_rng(0)
    x, w = rng.integers(0, 4, (DICE, 4)), rng.integers(0, 2, (DICE, 4))
    dice = characterize(circuit, x, w, Simulator(fake(tmp_path)), chips=np.arange(DICE))
    model = behaviour_of(dice)
    assert with_dice(model, dice).mismatch is not None
    with pytest.raises(ValueError, match=f"mismatch needs {DICE} or more"):
        with_dice(model, dice.take(np.arange(DICE - 1)))


def test_samples_are_kept_where_mismatch_cannot_be_fitted(tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("no fit")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bitline.macro.characterised.with_dice", fails)
    args = ["--out", "s.csv", "--model", "m.yaml", "--dice", 32, "--points", 60, "--ngspice", fake(tmp_path)]
    done = call("characterize", described(tmp_path), *args)
    assert done.exit_code == 2
    assert "error: no fit" in done.output
    assert len(Samples.load("s.csv")) == 40
    assert len(Samples.load("s-dice.csv")) == 32


FAILS = 'if [ $((sum % 4)) = 1 ]; then echo "Error: singular matrix"; exit 1; fi'  # a quarter of all sums
OFF = "if grep -q '^V0 .*[1-9][37]}' \"$2\"; then exit 1; fi"  # a fifth of all dies, and no point without mismatch


def test_rows_that_fail_are_told_and_others_take_their_place(tmp_path):
    circuit = own(tmp_path)
    x, w = spread_pool(circuit, 120)
    sums = (x.astype(int) * w).sum(axis=1)
    found = model_circuit(circuit, x, w, Simulator(fake(tmp_path, FAILS), cache=tmp_path / "cache"))
    fitted, checked = found.adapted.fitted, found.adapted.checked
    used = np.concatenate([fitted, checked])
    assert len(np.unique(used)) == len(used)
    assert (sums[used] % 4 != 1).all()
    assert len(checked) == 24
    again = fit_behaviour(shape_of(circuit), x[fitted], w[fitted], sums[fitted].astype(float))
    assert np.allclose(found.behaviour.predict(x, w), again.predict(x, w), atol=1e-9)
    assert found.adapted.met
    assert (found.samples.ideal % 4 != 1).all()
    assert len(found.failed) > 3
    for line in found.failed:
        number, told = re.match(
            r"point (\d+): (.*): ngspice measured no out and ended with status 1: Error: sing", line
        ).groups()
        assert told == f"x = {' '.join(map(str, x[int(number)]))}, w = {' '.join(map(str, w[int(number)]))}"
        assert sums[int(number)] % 4 == 1


def test_a_pool_that_mostly_fails_is_given_up_and_what_worked_is_kept(tmp_path):
    circuit = own(tmp_path)
    x, w = spread_pool(circuit, 400)
    program = fake(tmp_path, 'case "$sum" in 0|3|12) ;; *) exit 1;; esac')
    with pytest.raises(SimulationError, match=r"circuit own: \d+ of \d+ points failed; the \d+ finished") as caught:
        model_circuit(circuit, x, w, Simulator(program, cache=tmp_path / "cache"))
    assert set(caught.value.samples.ideal) <= {0, 3, 12}
    assert 20 <= len(caught.value.failures) < 60


def test_long_vectors_are_told_by_their_ends():
    x = np.arange(64)
    assert named(7, x, x[::-1], 3) == "point 7: die 3, x = 0 1 2 3 … 60 61 62 63, w = 63 62 61 60 … 3 2 1 0"


def test_dice_that_fail_are_told_and_others_take_their_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["--model", "m.yaml", "--dice", 40, "--points", 60, "--ngspice", fake(tmp_path, OFF)]
    done = call("characterize", described(tmp_path), "--out", "s.csv", *args)
    assert done.exit_code == 0, done.output
    still, dice = Samples.load("s.csv"), Samples.load("s-dice.csv")
    assert len(still) == 40
    assert still.chip is None
    assert len(np.unique(dice.chip)) == 40
    failed = np.setdiff1d(np.arange(dice.chip.max()), dice.chip)
    assert len(failed) > 1
    assert f"{len(failed)} points failed, and others took their place:" in done.output
    assert f": die {failed[0]}, x = " in done.output
    assert Path("m.yaml").exists()


@pytest.mark.parametrize("fails", [FAILS, OFF, f"{FAILS}; {OFF}"], ids=["points", "dice", "both"])
def test_samples_and_dice_are_kept_where_they_belong(tmp_path, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    args = ["--dice", 60, "--points", 40, "--ngspice", fake(tmp_path, fails)]
    done = call("characterize", described(tmp_path), "--out", "s.csv", *args)
    assert done.exit_code == 2
    still, dice = Samples.load("s.csv"), Samples.load("s-dice.csv")
    assert (len(still) < 40) == (fails != OFF)
    assert still.chip is None
    assert 20 < len(dice) < 60
    assert len(np.unique(dice.chip)) == len(dice)
    assert "finished points: s.csv, s-dice.csv and s.spice" in done.output
    failed = 100 - len(still) - len(dice)
    assert f"{failed} of 100 points failed; the {len(still) + len(dice)} finished points are kept" in done.output


def test_dice_too_few_of_which_work_leave_both_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = fake(tmp_path, "if grep -q '^V0 .*[1-9][1-8]}' \"$2\"; then exit 1; fi")
    args = ["--model", "m.yaml", "--dice", 40, "--points", 60, "--ngspice", program]
    done = call("characterize", described(tmp_path), "--out", "s.csv", *args)
    assert done.exit_code == 2
    assert re.search(r"circuit own, dice: \d+ of \d+ points failed", done.output)
    assert len(Samples.load("s.csv")) == 40
    assert 0 < len(Samples.load("s-dice.csv")) < 32


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_behind(tmp_path, number):
    log, temporary = tmp_path / "pids", tmp_path / "tmp"
    temporary.mkdir()
    program = fake(tmp_path, f"sleep 300 & echo $$ $! >> {log}; wait")
    command = ["characterize", str(described(tmp_path)), "--out", str(tmp_path / "s.csv"), "--ngspice", program]
    command += ["--workers", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)}
    run = subprocess.Popen(
        [sys.executable, "-m", "bitline", *command],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while (not log.exists() or log.read_text().count("\n") < 2) and run.poll() is None:  # the two points of the scale
        time.sleep(0.2)
    assert len(running(log)) == 4  # a shell and a sleep each
    run.send_signal(number)
    told = run.communicate(timeout=60)[1]
    assert run.returncode == 128 + number
    assert "interrupted; run the same command again to go on" in told
    assert running(log) == []
    assert list(temporary.glob("bitline-spice-*")) == []


@needs_ngspice
def test_a_shipped_circuit_takes_a_card_of_one_s_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(spice.__file__).parent / "cards" / "generic45.lib").read_text()
    for name, section in (("nom", "tt"), ("slow", "ss")):
        Path(name).mkdir()
        Path(name, "n.inc").write_text(
            text.split(f".lib {section}\n")[1].split(".endl")[0].replace("generic_n", "mine")
        )
    card = ["--card", "{corner}/n.inc", "--card-corners", "tt=nom,ss=slow"]
    circuit = ["rram-1t1r", "--points", "1", "--out", "s.csv"]
    found = []
    for corner in ("tt", "ss"):
        done = call("characterize", *circuit, *card, "--corner", corner)
        assert done.exit_code == 0, done.output
        found.append(Samples.load("s.csv"))
        at = Circuit.load("rram-1t1r").at(corner=corner)
        expected = characterize(at, found[-1]["x"], found[-1]["w"], Simulator())
        assert found[-1]["iread"] == pytest.approx(expected["iread"], rel=1e-9)
    assert found[0]["iread"] != found[1]["iread"]
    assert "--card '{corner}/n.inc' --card-corners 'tt=nom,ss=slow'" in found[0].provenance["command"]
    alone = call("characterize", *circuit, "--nmos", "mine")
    assert alone.exit_code == 2
    assert "--nmos mine is said of a card: give --card too" in alone.output
