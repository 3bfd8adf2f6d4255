"""Circuits in ngspice: netlists, the runner against simulators that misbehave, and the shipped circuits."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from bitline.circuits.spice import (
    Card,
    Circuit,
    SimulationError,
    Simulator,
    characterize,
    measured,
    names,
    scale,
    standard,
)
from bitline.circuits.spice.template import Template

NETLIST = """* divider
.param unit={{unit:V}}
*[rows
V{{row}} n{{row}} n{{next}} {{{x}}*{{w}}*unit+{{mismatch.cell}}}
*]
R n0 n{{rows}} 1
.op
.meas tran out FIND v(n0) AT=0
.end
"""
ABSENT = shutil.which("ngspice") is None
needs_ngspice = pytest.mark.skipif(ABSENT, reason="ngspice is not installed")


def described(folder: Path, text: str = NETLIST, **changes) -> Path:
    (folder / "own.cir").write_text(text)
    description = {
        "name": "own",
        "netlist": "own.cir",
        "rows": 4,
        "input_bits": 2,
        "measure": {"name": "out"},
        "scale": {"bits": 4, "counts": 12},
        "card": None,
        "parameters": {"unit": "10 mV"},
        "mismatch": {"cell": {"kind": "relative", "sigma": 0.01}},
    }
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump(description | changes))
    return file


def own(folder: Path, text: str = NETLIST, **changes) -> Circuit:
    return Circuit.load(described(folder, text, **changes))


def points(n: int, rows: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, (n, rows)), rng.integers(0, 2, (n, rows))


# ------------------------------------------------------------------------------------------------------- netlists


def test_a_deck_has_every_place_filled(tmp_path):
    circuit = own(tmp_path)
    deck = circuit.template.fill(np.array([3, 0, 1, 2]), np.array([1, 1, 0, 1]), {"cell": np.array([0, 0.5, 0, 0])})
    assert "{{" not in deck.replace("{{{", "{")
    assert ".param unit=0.01\n" in deck
    assert deck.count("\nV") == 4
    assert "V0 n0 n1 {3*1*unit+0}\n" in deck
    assert "V1 n1 n2 {0*1*unit+0.5}\n" in deck
    assert "R n0 n4 1\n" in deck


def test_rows_may_be_named_one_by_one():
    text = "* t\n{{x[0]}} {{w[0]}} {{ x[1] }} {{w[1]}}\n"
    template = Template.of(text, 2, "t.cir")
    assert template.fill(np.array([7, 8]), np.array([0, 1])) == "* t\n7 0 8 1\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{{{x}}*", "{1*", r"own\.cir has no placeholder \{\{x\}\}"),
        ("*{{w}}", "*1", r"own\.cir has no placeholder \{\{w\}\}"),
        ("+{{mismatch.cell}}", "", r"no placeholder \{\{mismatch\.cell\}\}"),
        ("{{rows}}", "{{colums}}", r"line 6: unknown placeholder \{\{colums\}\}; there are: models, .*a parameter of"),
        ("*]\n", "", r"'\*\[rows' without its other end"),
        ("{{rows}}", "{{x}}", r"\{\{x\}\} outside a row block says no row: write \{\{x\[0\]\}\}"),
        ("{{rows}}", "{{x[4]}}", r"\{\{x\[4\]\}\} names row 4; the circuit has 4 rows"),
        ("{{rows}}", "{{ro ws}}", r"\{\{ro ws\}\} is no placeholder"),
        ("{{unit:V}}", "{{unit:furlong}}", r"has the unit 'furlong'; there are: 1 \(a plain number\), s, V"),
        ("tran out", "tran in", r"measures nothing called 'out'"),
    ],
)
def test_a_netlist_that_cannot_be_filled_says_why(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message) as caught:
        own(tmp_path, NETLIST.replace(old, new))
    assert "own.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"unit": "10 fF"}}, r"parameters\.unit \(of own\.cir\): '10 fF' has the unit 'fF'; expected"),
        ({"parameters": {}}, r"own\.cir needs the parameter 'unit' \(V\)"),
        ({"parameters": {"unit": 1, "gain": 2}}, r"parameters\.gain: own\.cir has no place for it; it has: unit"),
        ({"supply": "1 A"}, r"supply: '1 A' has the unit 'A'; expected volts"),
        (
            {"netlist": "other.cir"},
            r"netlist 'other\.cir' is neither shipped \(charge, rram-1t1r, sram-8t, sram-8t-noise\) nor",
        ),
        ({"scale": {"bits": 4, "counts": 13}}, r"scale\.counts = 13 exceeds the 12 counts"),
        ({"card": {"files": ["no.lib"], "nmos": "n", "pmos": "p"}}, r"no placeholder \{\{models\}\}.*`card: null`"),
        (
            {"mismatch": {"cell": {"kind": "transistor", "width": "1 um", "length": "1 um", "a_vt": "3 mV"}}},
            r"'3 mV' is no threshold times length; expected, for example, '2\.5 mV\*um'",
        ),
    ],
)  # fmt: skip
def test_a_circuit_that_cannot_be_names_key_and_remedy(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        own(tmp_path, **changes)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "temperature",
            "85 degC",
            r"temperature 358\.15 K would .* own\.cir has no placeholder \{\{temperature\}\}; write",
        ),
        ("supply", "0.9 V", r"supply 0\.9 V would change nothing: own\.cir has no placeholder \{\{supply\}\}; write"),
        ("corner", "ff", r"corner 'ff' would change nothing: own\.cir has no placeholder \{\{corner\}\}; write"),
    ],
)
def test_a_condition_that_the_netlist_has_no_place_for_is_refused(tmp_path, key, value, message):
    circuit = own(tmp_path, NETLIST + f"* {{{{{key}}}}}\n")  # a comment takes nothing
    with pytest.raises(ValueError, match=message):
        circuit.at(**{key: value})
    with pytest.raises(ValueError, match=message):
        own(tmp_path, **{key: value})
    own(tmp_path, NETLIST + f".csparam there={{{{{key}}}}}\n").at(**{key: value})
    assert circuit.at(temperature="27 degC", supply="1 V", corner="tt") == circuit


@pytest.mark.parametrize(
    ("line", "quantity", "right"),
    [
        ("FIND v(n0) AT=0", "current", "voltage or a charge"),
        ("max i(V0)", "voltage", "current"),
        ("Find I(V0) when time=1n", "charge", "current"),
        ("integ i(V0) from=0 to=1n", "current", "charge"),
    ],
)
def test_a_quantity_that_is_not_what_is_measured_is_refused(tmp_path, line, quantity, right):
    text = NETLIST.replace("FIND v(n0) AT=0", line)
    with pytest.raises(
        ValueError, match=rf"measure\.quantity is {quantity}, and own\.cir measures out as .*: that is a {right}$"
    ):
        own(tmp_path, text, measure={"name": "out", "quantity": quantity})
    own(tmp_path, text, measure={"name": "out", "quantity": right.split()[0]})
    own(tmp_path, NETLIST.replace("FIND v(n0) AT=0", "param='2*a'"), measure={"name": "out", "quantity": quantity})


def test_samples_hold_the_conditions_that_the_netlist_takes(tmp_path):
    circuit, (x, w) = own(tmp_path, NETLIST + ".temp {{temperature}}\n"), points(3)
    samples = characterize(circuit.at(temperature="85 degC"), x, w, Simulator(fake(tmp_path)))
    assert samples.units.keys() == {"ideal", "code", "out", "temperature"}
    assert samples["temperature"] == pytest.approx(358.15)


def test_a_card_that_is_not_there_is_named(tmp_path):
    circuit = own(tmp_path, "{{models}}\n" + NETLIST, card={"files": ["{corner}/n.lib"], "corners": {"tt": "nom"},
                                                            "nmos": "n", "pmos": "p"})  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"no model card at .*nom/n\.lib \(corner tt\)"):
        circuit.cards()
    with pytest.raises(ValueError, match="corner 'ff': the card has tt"):
        circuit.at(corner="ff").cards()


def test_a_corner_that_the_card_lacks_is_told_with_those_it_has(tmp_path):
    with pytest.raises(ValueError, match=r"corner 'fast': the `\.lib` sections of .*generic45\.lib are tt, ff, ss"):
        scale(Circuit.load("sram-8t-pwm").at(corner="fast"), Simulator(fake(tmp_path)))
    (tmp_path / "n.lib").write_text(".lib 'inner.lib' Slow $ reads\n.include inner.lib\n")
    (tmp_path / "inner.lib").write_text(".LIB slow ; begins\n.endl\n.lib 'quick'\n.endl\n")
    circuit = own(tmp_path, "{{models}}\n" + NETLIST, card={"files": ["n.lib"], "nmos": "n", "pmos": "p"})
    assert circuit.at(corner="SLOW").cards() == [tmp_path / "n.lib"]
    with pytest.raises(ValueError, match=r"corner 'tt': the `\.lib` sections of .*n\.lib are slow, quick"):
        circuit.cards()
    (tmp_path / "n.lib").write_text(".model n nmos\n")
    with pytest.raises(ValueError, match=r"n\.lib are none: give `card\.corners`"):
        circuit.cards()


def test_corners_that_are_the_same_files_are_refused(tmp_path):
    card = {"files": ["n.lib"], "corners": {"tt": "nom", "ff": "fast"}, "nmos": "n", "pmos": "p"}
    with pytest.raises(ValueError, match=r"corners ff, tt would be the same: no path in `files` has \{corner\}"):
        own(tmp_path, "{{models}}\n" + NETLIST, card=card)


def test_a_card_from_words(tmp_path):
    (tmp_path / "n.pm").write_text(".model one nmos level=54\n")
    (tmp_path / "p.pm").write_text(".MODEL two PMOS level=54\n.model three d\n")
    card = Card.of([str(tmp_path / "n.pm"), str(tmp_path / "p.pm")])
    assert (card.nmos, card.pmos, card.corners) == ("one", "two", {"tt": "tt"})
    (tmp_path / "s.lib").write_text(".lib slow\n.include n.pm\n.endl\n")
    assert Card.of([str(tmp_path / "s.lib")], pmos="p").corners is None
    with pytest.raises(ValueError, match=r"pmos: the models of this type in .*s\.lib are none: name one"):
        Card.of([str(tmp_path / "s.lib")])
    found = Card.of([str(tmp_path / "{corner}.pm")], "tt=n, ff=p", pmos="p")
    assert found.paths("ff", Path()) == [tmp_path / "p.pm"]
    with pytest.raises(
        ValueError, match=r"\{corner\}\.pm names no corner: say what each is called there, such as tt=nom"
    ):
        Card.of(["{corner}.pm"])
    with pytest.raises(ValueError, match=r"corners 'tt,ff=p': expected what each is called, such as tt=nom"):
        Card.of(["{corner}.pm"], "tt,ff=p")
    with pytest.raises(FileNotFoundError, match=r"no model card at .*none\.pm"):
        Card.of([str(tmp_path / "none.pm")])


def test_pelgrom():
    circuit = Circuit.load("sram-8t-pwm")
    device = circuit.mismatch["access"]
    assert device.sigma == pytest.approx(2.5e-9 / np.sqrt(120e-9 * 80e-9))
    drawn = np.concatenate([circuit.drawn(0, chip)["access"] for chip in range(300)])
    assert drawn.std() == pytest.approx(device.sigma, rel=0.02)
    assert abs(drawn.mean()) < 4 * device.sigma / np.sqrt(len(drawn))


def test_mismatch_is_keyed_by_die_device_and_row():
    a = standard(0, 3, "access", 64)
    assert np.array_equal(a, standard(0, 3, "access", 64))
    assert np.array_equal(standard(0, 3, "access", 32, 1), a[32:])
    for other in (standard(0, 4, "access", 64), standard(1, 3, "access", 64), standard(0, 3, "storage", 64)):
        assert not np.isclose(a, other).any()


NOISY = NETLIST.replace("R n0", "B1 t 0 V={{noise.line}}+{{noise.cell[2]}}\nR n0")
NOISE = {"line": {"kind": "reset", "capacitance": "1 fF"}, "cell": {"kind": "normal", "deviation": 3}}


def test_thermal_noise_by_its_formulae():
    line, stack = (Circuit.load("sram-8t-noise").noise[name] for name in ("line", "stack"))
    kt = 1.380649e-23 * 300.15
    assert line.sigma(300.15) == pytest.approx(np.sqrt(kt / 45e-15))  # 0.3 mV
    assert stack.sigma(300.15) == pytest.approx(np.sqrt(2 * kt * 40e-6), rel=1e-3)
    assert line.sigma(4 * 300.15) == pytest.approx(2 * line.sigma(300.15))


def test_noise_is_drawn_anew_for_each_read_and_off_unless_asked_for(tmp_path):
    circuit, (x, w) = own(tmp_path, NOISY, noise=NOISE), points(2)
    assert "B1 t 0 V=0+0\n" in circuit.template.fill(x[0], w[0], {"cell": np.zeros(4)})
    first = circuit.fresh(0, 0, (0, 0), x[0], w[0])
    again = circuit.fresh(0, 0, (0, 0), x[0], w[0])
    assert all(np.array_equal(first[name], again[name]) for name in NOISE)
    others = [circuit.fresh(*of) for of in (
        (0, 1, (0, 0), x[0], w[0]), (0, 0, (1, 0), x[0], w[0]), (0, 0, (0, 1), x[0], w[0]), (0, 0, (0, 0), x[1], w[1]),
        (1, 0, (0, 0), x[0], w[0]))]  # fmt: skip
    for other in others:
        assert not np.isclose(other["cell"], first["cell"]).any()
    drawn = np.concatenate([circuit.fresh(0, read, (0, 0), x[0], w[0])["cell"] for read in range(500)])
    assert drawn.std() == pytest.approx(3, rel=0.06)
    deck = circuit.template.fill(x[0], w[0], {"cell": np.zeros(4)}, first)
    assert f"B1 t 0 V={first['line'][0]:.9g}+{first['cell'][2]:.9g}\n" in deck
    with pytest.raises(ValueError, match=r"no placeholder \{\{noise\.cell\}\}, which the circuit needs"):
        own(tmp_path, noise=NOISE)
    samples = characterize(own(tmp_path), x, w, Simulator(fake(tmp_path)))
    assert "noise" not in samples.provenance["circuit"]
    assert samples.read is None
    noisy = own(tmp_path, NOISY, noise=NOISE)
    twice = characterize(noisy, x[[0, 0]], w[[0, 0]], Simulator(fake(tmp_path)), reads=np.arange(2))
    assert twice.read.tolist() == [0, 1]
    assert twice.provenance["circuit"]["noise"]["line"] == {"kind": "reset", "capacitance": 1e-15}


@needs_ngspice
def test_reads_of_a_die_differ_by_the_thermal_noise_of_its_line():
    noisy, quiet, simulator = Circuit.load("sram-8t-noise"), Circuit.load("sram-8t-compact"), Simulator()
    x, w = (np.stack(each) for each in zip(*(noisy.reference(k) for k in (0, 60)), strict=True))
    still = [[o.value for o in measured(each, x, w, simulator)] for each in (noisy, quiet)]
    assert still[0] == pytest.approx(still[1], abs=1e-6)  # off: the column of before
    rows, reads = np.repeat([0, 1], 16), np.tile(np.arange(16), 2)
    seen = characterize(noisy, x[rows], w[rows], simulator, reads=reads)["vbl"].reshape(2, 16)
    idle, busy = seen.std(axis=1, ddof=1)
    assert 0.5 < idle / noisy.noise["line"].sigma(300.15) < 1.4  # the drains' capacitance comes on top of 45 fF
    assert busy > 1.3 * idle
    assert abs(seen.mean(axis=1) - still[0]).max() < 4 * busy / 4
    assert characterize(noisy, x[:1], w[:1], simulator, reads=np.zeros(1, int))["vbl"][0] == seen[0, 0]


def test_reference_patterns_sum_to_what_they_say():
    circuit = Circuit.load("rram-1t1r")
    for counts in range(circuit.full + 1):
        x, w = circuit.reference(counts)
        assert (x * w).sum() == counts
        assert x.max(initial=0) <= circuit.input_high
        assert w.max(initial=0) < circuit.weight_levels


# --------------------------------------------------------------------------------------- simulators that misbehave

FAKE = r"""#!/bin/sh
if [ "$1" = --version ]; then echo "** ngspice-99 : fake"; exit 0; fi
echo run >> "{log}"
sum=$(awk '/^V[0-9]+ n/ {{ split($4, f, /[{{*+]/); s += f[2] * f[3] }} END {{ print s }}' "$2")
{body}
echo "out                 =  $sum.5e+00"
"""


def fake(folder: Path, body: str = "") -> str:
    """A simulator that measures the sum plus a half, after ``body``, which may look at $sum."""
    program = folder / "ngspice"
    program.write_text(FAKE.format(log=folder / "runs", body=body))
    program.chmod(0o755)
    return str(program)


def runs(folder: Path) -> int:
    log = folder / "runs"
    return len(log.read_text().splitlines()) if log.exists() else 0


def sums_of(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return (x * w).sum(axis=1)


def test_points_come_back_in_order(tmp_path):
    circuit, (x, w) = own(tmp_path), points(12)
    outcomes = measured(circuit, x, w, Simulator(fake(tmp_path), workers=3))
    assert [outcome.value for outcome in outcomes] == [s + 0.5 for s in sums_of(x, w)]


def test_a_system_that_does_not_say_which_cores_a_process_may_use(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    circuit, (x, w) = own(tmp_path), points(3)
    outcomes = measured(circuit, x, w, Simulator(fake(tmp_path)))
    assert [outcome.value for outcome in outcomes] == [s + 0.5 for s in sums_of(x, w)]


def test_a_simulator_by_a_path_from_where_one_is(tmp_path, monkeypatch):
    circuit, (x, w) = own(tmp_path), points(3)
    fake(tmp_path)
    monkeypatch.chdir(tmp_path)
    outcomes = measured(circuit, x, w, Simulator("./ngspice"))
    assert [outcome.value for outcome in outcomes] == [s + 0.5 for s in sums_of(x, w)]


def test_absent(tmp_path):
    circuit, (x, w) = own(tmp_path), points(3)
    with pytest.raises(FileNotFoundError, match="no-such-ngspice is not installed: apt-get install ngspice"):
        characterize(circuit, x, w, Simulator("no-such-ngspice"))


TROUBLE = {
    "crash": ("kill -SEGV $$", "crashed with SIGSEGV"),
    "hang": ("exec tail -f /dev/null", r"no answer within 0\.5 s; the process was ended"),
    "no convergence": (
        'echo "doAnalyses: TRAN:  Timestep too small; initial timepoint: trouble with node n1"; exit 1',
        "measured no out and ended with status 1: doAnalyses: TRAN:  Timestep too small.* trouble with node n1",
    ),
    "nan": ('echo "out = nan"; exit 0', "measured out = nan"),
    "failed measure": (
        'echo "Error: measure  out  find(AT) : out of interval"; exit 0',
        "measured no out: Error: measure",
    ),
    "silence": ("exit 3", "measured no out and ended with status 3: it said nothing"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_point_that_fails_is_named_and_the_others_are_kept(tmp_path, trouble):
    body, message = TROUBLE[trouble]
    circuit, (x, w) = own(tmp_path), points(10)
    x[4], w[4] = (1, 1, 1, 2), 1  # sum 5, which the others have not
    w[np.arange(10) != 4, 3] = 0
    x[np.arange(10) != 4, :2] = 0
    assert (sums_of(x, w) == 5).sum() == 1
    program = fake(tmp_path, f'if [ "$sum" = 5 ]; then {body}; fi')
    simulator = Simulator(program, timeout=0.5, cache=tmp_path / "cache")
    with pytest.raises(
        SimulationError, match=rf"(?s)own: 1 of 10 points failed; the 9 finished points are kept\npoint 4: .*{message}"
    ) as caught:
        characterize(circuit, x, w, simulator)
    samples = caught.value.samples
    assert np.array_equal(samples.ideal, np.delete(sums_of(x, w), 4))
    assert np.array_equal(samples["out"], samples.ideal + 0.5)
    assert list(caught.value.failures) == [4]
    before = runs(tmp_path)
    fake(tmp_path)  # mended: only that point is simulated again
    assert len(characterize(circuit, x, w, simulator)) == 10
    assert runs(tmp_path) == before + 1


def test_a_simulator_that_never_works_is_not_asked_a_thousand_times(tmp_path):
    circuit, (x, w) = own(tmp_path), points(200, seed=3)
    outcomes = measured(circuit, x, w, Simulator(fake(tmp_path, "exit 1"), workers=2))
    assert runs(tmp_path) < 40
    assert outcomes[0].failure.startswith("ngspice measured no out")
    assert outcomes[-1].failure == "not tried: all points before it had failed"


def test_points_that_worked_before_keep_failures_from_ending_a_resumed_run(tmp_path):
    circuit, (x, w) = own(tmp_path), points(300, seed=3)
    order = np.argsort(sums_of(x, w) > 3, kind="stable")  # those that fail come first
    x, w = x[order], w[order]
    failing = int((sums_of(x, w) <= 3).sum())
    assert failing > 40
    simulator = Simulator(fake(tmp_path, 'if [ "$sum" -le 3 ]; then exit 1; fi'), workers=1, cache=tmp_path / "cache")
    measured(circuit, x[failing:][::2], w[failing:][::2], simulator)
    outcomes = measured(circuit, x, w, simulator)
    assert all(o.failure.startswith("ngspice measured no out") for o in outcomes[:failing])
    assert all(o.value is not None for o in outcomes[failing:])


def test_results_do_not_depend_on_company(tmp_path):
    circuit, (x, w) = own(tmp_path), points(9)
    simulator = Simulator(fake(tmp_path))
    together = [o.value for o in measured(circuit, x, w, simulator)]
    alone = [measured(circuit, x[[i]], w[[i]], Simulator(fake(tmp_path), workers=1))[0].value for i in range(9)]
    assert together == alone


def test_the_cache_goes_by_content(tmp_path):
    circuit, (x, w) = own(tmp_path), points(6)
    simulator = Simulator(fake(tmp_path), cache=tmp_path / "cache")
    measured(circuit, x, w, simulator)
    different = len({(tuple(a), tuple(b)) for a, b in zip(x, w, strict=True)})
    assert runs(tmp_path) == different
    assert all(outcome.cached for outcome in measured(circuit, x, w, simulator))
    assert runs(tmp_path) == different
    measured(circuit.at(parameters={"unit": "20 mV"}), x[:1], w[:1], simulator)
    assert runs(tmp_path) == different + 1
    broken = next((tmp_path / "cache").glob("*/*.json"))
    broken.write_text("{")  # not whole: simulated again
    measured(circuit, x, w, simulator)
    assert runs(tmp_path) == different + 2


def test_a_card_s_content_counts_and_its_place_does_not(tmp_path):
    card = {"files": ["a/n.lib"], "corners": {"tt": "tt"}, "nmos": "n", "pmos": "p"}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "n.lib").write_text('.include "inner.inc"\n')
        (tmp_path / folder / "inner.inc").write_text("* one\n")
    circuit, (x, w) = own(tmp_path, "{{models}}\n" + NETLIST, card=card), points(1)
    simulator = Simulator(fake(tmp_path), cache=tmp_path / "cache")
    measured(circuit, x, w, simulator)
    measured(circuit.at(card=card | {"files": ["b/n.lib"]}), x, w, simulator)
    assert runs(tmp_path) == 1
    (tmp_path / "b" / "inner.inc").write_text("* two\n")
    measured(circuit.at(card=card | {"files": ["b/n.lib"]}), x, w, simulator)
    assert runs(tmp_path) == 2


INCLUDES = {
    "relative": '.include "parts/cell.inc"',
    "absolute": ".inc {folder}/parts/cell.inc",
    "section": ".lib 'parts/cell.inc' tt ; typical",
}


@pytest.mark.parametrize("line", INCLUDES.values(), ids=INCLUDES)
def test_what_a_netlist_includes_counts_by_its_content(tmp_path, line):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "cell.inc").write_text('.include "inner.inc"\n')
    (tmp_path / "parts" / "inner.inc").write_text("* one\n")
    circuit, (x, w) = own(tmp_path, NETLIST + line.format(folder=tmp_path) + "\n"), points(1)
    program = fake(tmp_path, f'grep -q \'"{tmp_path}/parts/cell.inc"\' "$2" || exit 1')
    simulator = Simulator(program, cache=tmp_path / "cache")
    told = characterize(circuit, x, w, simulator).provenance
    assert told["card_hashes"] == []
    before = runs(tmp_path)
    assert characterize(circuit, x, w, simulator).provenance == told
    assert runs(tmp_path) == before
    (tmp_path / "parts" / "inner.inc").write_text("* two\n")
    again = characterize(circuit, x, w, simulator).provenance
    assert runs(tmp_path) == 2 * before
    (name,) = told["included"]
    assert name.endswith("parts/cell.inc")
    assert again["included"][name] != told["included"][name]


def test_a_file_that_is_included_and_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"own\.cir includes 'a b\.inc', and there is no file at {tmp_path}/a b\.inc"):
        own(tmp_path, NETLIST + '.include "a b.inc"\n')


@needs_ngspice
def test_ngspice_finds_what_a_netlist_includes(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "cell.inc").write_text('.include "inner.inc"\n')
    (tmp_path / "parts" / "inner.inc").write_text(".param extra=0.5\n")
    text = (
        NETLIST.replace("v(n0) AT=0", "v(n0) AT=1n")
        .replace(".op", ".tran 1n 2n")
        .replace("R n0", "Vs n4 0 {extra}\nR n0")
    )
    circuit, (x, w) = own(tmp_path, '* title\n.include "parts/cell.inc"\n' + text), points(3)
    found = [outcome.value for outcome in measured(circuit, x, w, Simulator())]
    assert found == pytest.approx(0.01 * sums_of(x, w) + 0.5)


CHILD = """
import os, signal, sys
from pathlib import Path
from bitline.circuits.spice import Circuit, Simulator, measured
sys.path.insert(0, {tests!r})
from test_spice import points

def done(i, outcome):
    if i == 6:
        os.kill(os.getpid(), signal.SIGKILL)

measured(Circuit.load({file!r}), *points(20, seed=5), Simulator({program!r}, workers=1, cache=Path({cache!r})),
         done=done)
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    file, (x, w) = described(tmp_path), points(20, seed=5)
    cache = tmp_path / "cache"
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    program = fake(tmp_path / "first")
    code = CHILD.format(tests=str(Path(__file__).parent), file=str(file), program=program, cache=str(cache))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert child.returncode == -signal.SIGKILL
    outcomes = measured(Circuit.load(file), x, w, Simulator(fake(tmp_path / "second"), cache=cache))
    assert [o.value for o in outcomes] == [s + 0.5 for s in sums_of(x, w)]
    assert [o.cached for o in outcomes] == [True] * 7 + [False] * 13
    assert runs(tmp_path / "second") == 13


def test_samples_carry_what_it_takes_to_repeat_them(tmp_path):
    circuit, (x, w) = own(tmp_path), points(8)
    samples = characterize(circuit, x, w, Simulator(fake(tmp_path)), chips=np.arange(8), seed=4, command="this")
    told = samples.provenance
    assert told["simulator"] == "ngspice-99"
    assert told["command"] == "this"
    assert told["seed"] == 4
    assert (told["zero"], told["lsb"]) == (0.5, 0.75)
    assert len(told["netlist_hash"]) == 16
    assert samples.units["out"] == "V"
    assert np.array_equal(samples.code, np.clip(np.floor(samples.ideal / 0.75 + 0.5), 0, 15))
    again = characterize(own(tmp_path, NETLIST + "* more\n"), x, w, Simulator(fake(tmp_path)))
    assert again.provenance["netlist_hash"] != told["netlist_hash"]
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((2, 3), int), r"x has the shape \(2, 3\); circuit own wants \(points, 4\)"),
        (np.full((1, 4), 4), np.zeros((1, 4), int), r"x\[0, 0\] = 4 is outside 0 … 3 of circuit own"),
        (np.zeros((1, 4), int), np.array([[0, 0, 2, 0]]), r"w\[0, 2\] = 2 is outside 0 … 1"),
    ],
)
def test_vectors_that_do_not_fit(tmp_path, x, w, message):
    with pytest.raises(ValueError, match=message):
        measured(own(tmp_path), x, w, Simulator(fake(tmp_path)))


def test_a_circuit_that_does_not_respond(tmp_path):
    program = fake(tmp_path, 'echo "out = 0.25"; exit 0')
    with pytest.raises(ValueError, match=r"out is 0\.25 V at 0 and at 12 counts: the circuit does not respond"):
        scale(own(tmp_path), Simulator(program))


# -------------------------------------------------------------------------------------- circuits that come with it


def test_each_netlist_has_a_circuit():
    assert names() == ["charge", "rram-1t1r", "sram-8t-compact", "sram-8t-noise", "sram-8t-pwm", "sram-8t-serial"]
    with pytest.raises(ValueError, match="no circuit dram: neither a file nor shipped; shipped: charge, rram-1t1r"):
        Circuit.load("dram")


@needs_ngspice
@pytest.mark.parametrize("name", names())
def test_a_shipped_circuit_responds_monotonically(name):
    circuit = Circuit.load(name)
    patterns = [circuit.reference(int(f * circuit.scale.counts)) for f in np.linspace(0, 1, 5)]
    x, w = (np.stack(each) for each in zip(*patterns, strict=True))
    axis = scale(circuit, Simulator())
    found = (np.array([o.value for o in measured(circuit, x, w, Simulator())]) - axis.zero) / axis.lsb
    assert found[0] == 0
    assert found[-1] == pytest.approx(2**circuit.scale.bits)
    assert (np.diff(found) > 0.1 * 2**circuit.scale.bits / 4).all()


@needs_ngspice
def test_corner_temperature_and_mismatch_move_the_column():
    circuit, simulator = Circuit.load("sram-8t-pwm"), Simulator()
    x, w = (each[None] for each in circuit.reference(96))

    def value(at: Circuit, **more) -> float:
        return measured(at, x, w, simulator, **more)[0].value

    corners = [value(circuit.at(corner=corner)) for corner in ("ff", "tt", "ss")]
    assert np.all(np.diff(corners) > 0.02)  # fast cells discharge further
    assert abs(value(circuit.at(temperature="125 degC")) - corners[1]) > 0.001
    assert value(circuit.at(supply="0.9 V")) < corners[1] - 0.05
    weak = {"access": np.full(64, 0.03), "storage": np.zeros(64)}
    assert value(circuit, mismatch=[weak]) > corners[1] + 0.02
    idle = {"access": np.where(w[0] > 0, 0, 0.03), "storage": np.zeros(64)}  # cells that are off matter little
    assert value(circuit, mismatch=[idle]) == pytest.approx(corners[1], abs=1e-4)


CARDS = {
    "freepdk45": Card(files=("spice/freepdk45/{corner}/NMOS_VTG.inc", "spice/freepdk45/{corner}/PMOS_VTG.inc"),
                      corners={"tt": "nom", "ff": "ff", "ss": "ss"}, nmos="NMOS_VTG", pmos="PMOS_VTG"),
    "ptm": Card(files=("45nm_HP.pm",), corners={"tt": ""}, nmos="NMOS_VTL", pmos="PMOS_VTL"),
}  # fmt: skip


@needs_ngspice
@pytest.mark.parametrize("name", CARDS)
def test_public_cards_fit_the_same_netlist(data_dir, tmp_path, name):
    card, beside = CARDS[name], data_dir
    if name == "ptm":  # as re-published, its models are of no type ngspice knows
        text = (data_dir / "spice" / "ptm" / card.files[0]).read_text()
        beside = tmp_path
        (tmp_path / "45nm_HP.pm").write_text(
            text.replace("NMOS_VTL  NMOS_VTL", "NMOS_VTL nmos").replace("PMOS_VTL  PMOS_VTL", "PMOS_VTL pmos")
        )
    circuit = Circuit.load("sram-8t-pwm").at(card=card, beside=beside)
    axis = scale(circuit, Simulator())
    assert -1 / 128 < axis.lsb < -0.2 / 128  # V a code: the line discharges by a fifth of the supply at least
    if name == "freepdk45":
        assert scale(circuit.at(corner="ss"), Simulator()).lsb > axis.lsb


@needs_ngspice
def test_a_netlist_that_does_not_converge_gives_ngspice_s_own_words(tmp_path):
    text = NETLIST.replace("R n0 n{{rows}} 1", "Vx n0 0 1\nVy n0 0 2\n.tran 1n 2n")
    circuit, (x, w) = own(tmp_path, text), points(1)
    outcome = measured(circuit, x, w, Simulator())[0]
    assert outcome.value is None
    assert "singular" in outcome.failure.lower()
