"""Bits layer by layer against the same bits everywhere: LeNet-5 on MNIST, weights that vary log-normally, sigma 0.5.

The baseline is declared: 8 bits of inputs, weights and converters on every layer. Accuracies are of networks trained
for their setting, on 50 chips.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.seeds import KEPT, missing
from bitline.cost import brief
from bitline.experiment import SearchRun, load
from bitline.report.search import verdict
from bitline.search import Goal, Searched

EXAMPLE = Path(__file__).parents[1] / "examples" / "bits-lenet5.yaml"
LOSE = 1.0
TARGET = 0.55  # of the baseline's ADC energy, to be saved
ALONE = ("search.input_bits=[]", "search.finals=4")


def run() -> str:
    """Both searches: all knobs, and the converters' bits alone."""
    if why := missing():
        return why
    parts = {"Bits of inputs and converters": found(), "Bits of converters alone": found(ALONE, "adc")}
    return "\n\n".join(f"**{head}**\n\n{table(one)}" for head, one in parts.items())


def found(changes: Sequence[str] = (), name: str = "all") -> Searched:
    """A search of the example, kept in ``out/bench`` and gone on with."""
    with tempfile.TemporaryDirectory() as folder:
        out = KEPT / f"search-{name}" if KEPT.parent.exists() else Path(folder)
        return SearchRun(load(EXAMPLE, changes), out, Goal(lose=LOSE), print, progress=False)()


def table(one: Searched) -> str:
    """What was tested; what the cheapest within a point saves; how many uniform settings the others beat; what was
    verified."""
    heads = [brief(law) for law in one.laws]
    own = one.baseline.accuracy("tested")
    lines = [f"| setting, % | mean [95 %] | 5th percentile | {' | '.join(f'saved, {head}' for head in heads)} |"]
    lines.append("|---" * (3 + len(heads)) + "|")
    for each in sorted(one.tested, key=one.joules):
        assert each.tested is not None
        row = each.tested
        cells = [
            each.name,
            f"{row.mean:.2f} [{row.ci95[0]:.2f}, {row.ci95[1]:.2f}]",
            f"{each.accuracy('tested', 'p5'):.1f}",
        ]
        lines.append(f"| {' | '.join([*cells, *(f'{100 * one.saved(each, law):.1f}' for law in one.laws)])} |")
    lines += [
        "",
        f"| law | cheapest at ≤ {LOSE:g} point below {own:.2f} %: saved | of the same bits everywhere: saved ",
    ]
    lines[-1] += "| uniform beaten by others, tested | screened |"
    lines.append("|---" * 5 + "|")
    for law in one.laws:
        best = one.cheapest(own - LOSE, law)
        same = min(
            (each for each in one.tested if each.same and each.accuracy("tested") >= own - LOSE),
            key=lambda e: one.joules(e, law),
        )
        told = [
            f"{each.name}, {each.accuracy('tested'):.2f} %: {100 * one.saved(each, law):.1f} %" for each in (best, same)
        ]
        beaten = [" of ".join(map(str, one.beaten(law, stage))) for stage in ("tested", "screened")]
        lines.append(f"| {' | '.join([law, *told, *beaten])} |")
    if one.verified is not None:
        lines += ["", f"Chosen by {one.facts['decided by']}; {verdict(one.verified)}."]
    shares = {brief(law): one.saved(one.cheapest(own - LOSE, law), law) for law in one.laws}
    told = [
        f"{law} {'reached' if share >= TARGET else 'missed'} ({100 * share:.1f} %)" for law, share in shares.items()
    ]
    lines += ["", f"Target, {100 * TARGET:.0f} % of the ADC energy saved at ≤ {LOSE:g} point: {', '.join(told)}."]
    lines[-1] += " No setting is cheaper than the fewest bits everywhere, which nothing can beat."
    chosen = {name: setting.title for name, setting in one.cheapest(own - LOSE).settings.items()}
    lines += ["", f"{one.cheapest(own - LOSE).name}: {'; '.join(f'{k}: {v}' for k, v in chosen.items())}."]
    fit = one.surrogate
    if fit.residual is not None and fit.rank is not None:
        lines[-1] += (
            f" Surrogate: {fit.residual:.2f} points rms, rank correlation {fit.rank:.2f}, {fit.settings} settings."
        )
    return "\n".join(lines)
