"""The presets generic-spice-sram and generic-spice-sram-compact, made again: an 8T SRAM column and its corners.

    python examples/sram_macro.py FOLDER > src/bitline/macro/presets/generic-spice-sram.yaml
    python examples/sram_macro.py FOLDER sram-8t-compact > src/bitline/macro/presets/generic-spice-sram-compact.yaml

The typical corner is fitted to the shipped samples, the others to points that ngspice simulates now (a minute). The
converter's zero follows the precharged line, its step is that of the typical corner.
"""

import sys
from pathlib import Path

import numpy as np

from bitline.circuits.spice import Circuit, Simulator, Volts, characterize, scale
from bitline.encode import TwosComplementWeight
from bitline.macro import Behaviour, behaviour_of, curve_alone, judge, shipped, values_of, with_dice
from bitline.macro.kinds import CurveColumn
from bitline.samples import Samples

PRESETS = {"sram-8t-pwm": "generic-spice-sram", "sram-8t-compact": "generic-spice-sram-compact"}
CORNERS = {
    "ff": ({"corner": "ff"}, "fast transistors"),
    "ss": ({"corner": "ss"}, "slow transistors"),
    "hot": ({"temperature": "125 degC"}, "125 °C against 27 °C"),
    "cold": ({"temperature": "-40 degC"}, "-40 °C against 27 °C"),
    "low-supply": ({"supply": "0.9 V"}, "0.9 V against 1 V"),
}
POINTS, DICE = 64, 128


def rows_of(samples: Samples, n: int) -> np.ndarray:
    """``n`` rows, evenly over the sums."""
    order = np.argsort(samples.ideal, kind="stable")
    return order[np.linspace(0, len(order) - 1, n).astype(int)]


def numbers(values: tuple[float, ...]) -> str:
    """A list in YAML, four digits behind the point."""
    return "[" + ", ".join(f"{value:.4f}".rstrip("0").rstrip(".") for value in values) + "]"


def column(curve: CurveColumn, indent: str) -> list[str]:
    """Mean and noise in YAML."""
    lines = []
    for name, what, curve_of in (("mean", "counts", curve.mean), ("sigma", "counts rms, of patterns", curve.sigma)):
        lines += [
            f"{name}:  # {what}",
            "  kind: points",
            f"  u: {numbers(curve_of.u)}  # counts",
            f"  value: {numbers(curve_of.value)}  # {what}",
        ]
    return [indent + line for line in lines]


def cells(behaviour: Behaviour, indent: str) -> list[str]:
    """The cells' deviations in YAML."""
    error = behaviour.cell().errors[0]
    lines = [
        "errors:",
        "- kind: table",
        "  clock: fabrication",
        f"  mean: {numbers(error.mean)}  # levels",
        f"  sigma: {numbers(error.sigma)}  # levels; thresholds by Pelgrom's law, A_VT = 2.5 mV·µm",
    ]
    return [indent + line for line in lines]


def main(folder: Path, name: str = "sram-8t-pwm") -> None:
    """Print the preset."""
    still, dice = shipped(name), shipped(f"{name}-dice")
    circuit, simulator = Circuit.load(name), Simulator(cache=folder / "cache")
    axis = scale(circuit, simulator)
    typical = with_dice(behaviour_of(still), dice)
    goodness, _, _ = judge(typical, still["x"], still["w"], values_of(still))
    macro = typical.macro(name, columns=128, weights=TwosComplementWeight(bits=4, cell_bits=1))
    rows = rows_of(still, POINTS + DICE)
    x, w = still["x"][rows], still["w"][rows]
    lines = [
        "# The 8T SRAM column of the shipped samples, from transistors: made by examples/sram_macro.py, not by hand.",
        f"name: {PRESETS[name]}",
        "source: >-",
        f"  Generic; no chip. ngspice on the project's own 45 nm BSIM4 card ({name}), {len(still)} points without",
        f"  mismatch, {len(dice)} with. A curve of the sum, patterns as noise ({goodness.rms_alone:.2f} LSB rms);",
        f"  with pattern counts the model is within {goodness.rms:.3f} LSB rms and {goodness.largest:.3f} at most.",
        f"rows: {circuit.rows}            # rows of an array, all on at once",
        "columns: 128        # 32 outputs of 4 bit columns",
        "columns_per_adc: 4  # the four bit columns of a weight take turns",
        "inputs:",
        "  kind: unsigned",
        f"  bits: {circuit.input_bits}           # bits",
        f"  digit_bits: {circuit.input_bits}     # bits: the length of one pulse",
        "weights:",
        "  kind: twos_complement",
        "  bits: 4           # bits, one cell and column each",
        "  cell_bits: 1      # bits a cell",
        "cell:",
        *cells(typical, "  "),
        "column:",
        "  kind: curve",
        *column(curve_alone(typical, still["x"], still["w"]), "  "),
        "converter:",
        "  kind: adc",
        f"  bits: {circuit.scale.bits}           # bits",
        "  range:",
        "    kind: fixed",
        "    low: 0          # counts",
        f"    high: {macro.converter.range.high:g}     # counts: {circuit.scale.counts} span 2^7 steps",
        f"volts_per_count: {abs(axis.lsb) / typical.shape.step * 1e3:.4g} mV  # ngspice",
        "corners:",
    ]
    for corner, (changes, told) in CORNERS.items():
        there = circuit.at(**changes)
        own = Volts(scale(there, simulator).zero, axis.lsb)
        some = characterize(there, x[::3], w[::3], simulator, axis=own)
        many = characterize(there, x, w, simulator, axis=own, chips=np.arange(len(x)))
        fitted = with_dice(behaviour_of(some), many)
        lines += [f"  {corner}:  # {told}", "    cell:", *cells(fitted, "      "), "    column:"]
        lines += column(curve_alone(fitted, still["x"], still["w"]), "      ")
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
