"""Write the measured cells that come with the library: ``python examples/measured_tables.py DATA [INTO]``.

DATA is a folder with ``rram_techA`` and ``rram_techB`` of github.com/akashlevy/RRAM-Relaxation-Master-Model (MIT,
Copyright (c) 2021 Akash Levy): the files named in ``array_a`` and ``array_b``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bitline.devices import (
    Conductances,
    fit_conductances,
    fit_confusions,
    join,
    read_bake,
    read_confusions,
    read_relaxation,
)

INTO = Path(__file__).parents[1] / "src" / "bitline" / "devices" / "tables"
CREDIT = "github.com/akashlevy/RRAM-Relaxation-Master-Model, MIT licence, Copyright (c) 2021 Akash Levy"
LEVELS = 32


def g_max(folder: Path) -> float:
    """End of the conductances programmed, S."""
    return float(json.loads((folder / "settings.json").read_text())["gmax"])


def array_a(folder: Path) -> Conductances:
    """By age from counts of level confusion, after bakes from the cells."""
    high = g_max(folder)
    aged = fit_confusions(read_confusions(folder / "confmats"), "rram-a by age", high, LEVELS)
    reads = read_bake(folder / "bake.tsv.gz", high, LEVELS)
    baked = fit_conductances(reads, "rram-a baked", high / LEVELS / 2, high / LEVELS)
    source = (
        f"Fabricated RRAM array, technology A of {CREDIT}. By age at room temperature: fitted to its 16-level "
        "confusion matrices (confmats/T.npy). After bakes of 1.2 to 2 h: quantiles of bake.tsv.gz, about 490 cells a "
        "level, read once. A cell's level is the range of its first read; left out are cells beyond the highest."
    )
    return join("rram-a", source, [aged, baked])


def array_b(folder: Path) -> Conductances:
    """By age from the cells."""
    high = g_max(folder)
    reads = read_relaxation(folder / "relaxdata_10k.min.tsv.gz", LEVELS)
    source = (
        f"Fabricated RRAM array, technology B of {CREDIT}. Quantiles of relaxdata_10k.min.tsv.gz at room temperature, "
        "about 480 cells a level. Left out: 426 of 15961 cells (2.7 %) programmed beyond the highest level."
    )
    return fit_conductances(reads, "rram-b", high / LEVELS / 2, high / LEVELS, source, LEVELS)


def main(data: Path, into: Path = INTO) -> None:
    """Both tables."""
    array_a(data / "rram_techA").save(into / "rram-a.parquet")
    array_b(data / "rram_techB").save(into / "rram-b.parquet")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
