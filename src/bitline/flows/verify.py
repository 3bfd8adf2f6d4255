"""S0's verification: a trained network on the behavioural model of its circuit, on dies that nobody has met, and its
own conversions in ngspice.

(Chang, Liu, Kuster, SMACD 2022; a reconstruction.) Nothing here is read from the error model a network may have been
trained with, nor from a die of the training or the test lot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from bitline import draws
from bitline.circuits.spice import Circuit, Simulator, Volts
from bitline.evaluate import Band, Row, Seen, Verification, answers, over_chips, row, testing_chip
from bitline.evaluate.montecarlo import Batch, blocks
from bitline.flows.conversions import BANDS, Conversions
from bitline.flows.simulated import Simulated, assumed, left_over, simulated
from bitline.macro import Behaviour, Expected, Macro, Readout, behaviour_of, expected_errors, ideal
from bitline.macro.kinds import TableColumn
from bitline.macro.legs import sums_of
from bitline.nn import kept, layers, on_chip, silicon, use
from bitline.samples import Samples

Source = Callable[[], Iterable[Batch]]
DICE = 2  # that conversions are drawn from


def verification_seed(seed: int) -> int:
    """Seed of the dies of a verification: another lot than those of training and of tests."""
    return draws.key("verification lot", seed)


def on_behaviour(design: Macro, behaviour: Behaviour) -> Macro:
    """A macro with a circuit's behavioural model in place of its own columns, cells or table.

    Columns that are converted alone must have the circuit's own converter; legs that meet before, one with a range
    that is the same in all layers. Raises ValueError where the macro is not one of such columns.
    """
    shape, adc = behaviour.shape, design.converter
    alone, table = len(design.leg_signs) == 1, isinstance(design.column, TableColumn)
    told: list[tuple[str, object, object]] = [
        ("rows on", design.on, shape.rows),
        ("largest digit", design.digit_high, shape.digits - 1),
        ("largest level", design.level_high, shape.levels - 1),
    ]
    if alone and not table:
        its = shape.converter
        told += [("codes", adc and adc.codes, its.codes), ("range", adc and adc.range, its.range)]
    for name, mine, wanted in told:
        if mine != wanted:
            raise ValueError(f"macro {design.name} is not one of this circuit's columns: {name} {mine}, not {wanted}")
    if table:  # codes without a converter: a column has the circuit's, legs one on the table's grid
        adc = shape.converter if alone else ideal(design).converter
    found = design.model_copy(update={"column": behaviour.column(), "cell": behaviour.cell(), "converter": adc})
    Readout.of(found)
    return found


def verify(
    model: nn.Module,
    source: Source,
    circuit: Circuit,
    samples: Samples,
    dice: Samples,
    *,
    method: str = "",
    simulator: Simulator | None = None,
    chips: int = 5,
    images: int = 64,
    conversions: int = 256,
    seed: int = 0,
) -> Verification:
    """Verify a network trained for a macro of ``circuit``: accuracy over all of ``source`` on ``chips`` fresh dies of
    the circuit's behavioural model; and errors of the conversions that ``images`` of it make on two of these dies,
    with ``conversions`` of them, spread over the sums, in ngspice, each on a die of its own.

    Where several legs meet before a conversion (a pair, a reference column), each is a column of the circuit, with
    mismatch of its own; their subtraction and the converter are ideal everywhere.

    ``samples``, ``dice``: of the circuit without and with mismatch (``characterize``), which the behavioural model is
    fitted to. ``simulator``: absent, nothing is simulated; where ngspice is not installed, or points fail, the result
    says so and holds the rest. The model stays as it is. Raises ValueError where the samples are of another circuit, or
    a layer's macro is not made of such columns.
    """
    for told in (samples, dice):
        mine = circuit.told()
        if told.provenance.get("circuit") != mine:
            other = (told.provenance.get("circuit") or {}).get("name", "no circuit")
            raise ValueError(f"these samples are of {other}, or of other figures than circuit {circuit.name} has now")
    behaviour = behaviour_of(samples, dice)
    variant = lambda design: on_behaviour(design, behaviour)  # noqa: E731
    readout = _readout(model, variant)
    fresh = verification_seed(seed)
    try:
        rows = [_row("ideal macro", model, source, 0, fresh, ideal)]
        rows.append(_row("macro", model, source, chips, fresh, lambda design: design))
        rows.append(_row("behavioural model", model, source, chips, fresh, variant))
        met = Conversions(behaviour.shape, readout, max(1, conversions // BANDS), seed=fresh)
        _collect(model, source, images, fresh, met)
    finally:
        use(model)
    x, w = met.vectors
    expected = expected_errors(x, w, behaviour, readout, (samples["x"], samples["w"]))
    axis = Volts(float(samples.provenance["zero"]), float(samples.provenance["lsb"]))
    real = simulated(circuit, x, w, behaviour, readout, axis, simulator, fresh)
    return Verification(
        method=method,
        circuit=circuit.name,
        rows=tuple(rows),
        bands=_bands(met, readout.met(sums_of(x, w)), expected, real),
        simulator=real.said,
        assumed=assumed(readout),
        left_over=left_over(behaviour, dice, readout),
    )


def _readout(model: nn.Module, variant: Callable[[Macro], Macro]) -> Readout:
    """The one way in which all layers' conversions are read; raises ValueError where there are several."""
    found = {Readout.of(variant(layer.design)): name for name, layer in layers(model).items()}
    if len(found) > 1:
        told = "; ".join(f"{name}: {readout}" for readout, name in found.items())
        raise ValueError(f"the layers' conversions are not alike, and cannot be told by their sums together: {told}")
    return next(iter(found))


def _row(name: str, model: nn.Module, source: Source, chips: int, seed: int, variant: Callable[[Macro], Macro]) -> Row:
    """Accuracy on fresh dies of a variant of the macro; ``chips`` 0: on the one there is, all alike."""
    use(model, variant)
    macro = next(iter(layers(model).values())).macro
    if chips:
        right = torch.stack([trial.right for trial in over_chips(model, source, chips, seed)])
    else:
        right = answers(model, source())[None]
    return row(right, name, macro.name, seed=seed)


@torch.no_grad()
def _collect(model: nn.Module, source: Source, images: int, seed: int, met: Conversions) -> None:
    """Show ``met`` the conversions of a few images on a few dies."""
    shared, device, found = silicon(model), next(model.parameters()).device, layers(model)
    for layer in found.values():
        layer.probe = met
    try:
        with kept(model):
            model.eval()
            shared.seed = seed
            for number in range(DICE):
                on_chip(model, testing_chip(seed, number))
                left = images
                for x, _, index, real in blocks(source()):
                    count = min(real, left)
                    shared.begin(index[:count].to(device), 0)
                    model(x[:count].to(device))
                    left -= count
                    if not left:
                        break
    finally:
        for layer in found.values():
            layer.probe = None


def _bands(
    met: Conversions, sums: np.ndarray, expected: tuple[Expected, Expected], real: Simulated
) -> tuple[Band, ...]:
    """Band by band, those without a conversion left out; ``sums``: of those drawn."""
    found = []
    for b in range(met.bands):
        of, some = met.band(met.sums) == b, met.band(sums) == b
        if not some.any():
            continue
        there, total = met.sums[of][met.total[of] > 0], met.total[of].sum()
        error, rest = (each[some][~np.isnan(real.error[some])] for each in (real.error, real.residual))
        model, table = (Seen(rate=float(e.rate[some].mean()), error=float(e.error[some].mean())) for e in expected)
        found.append(
            Band(
                low=int(there.min()),
                high=int(there.max()),
                share=float(total / met.total.sum()),
                network=Seen(rate=float(met.wrong[of].sum() / total), error=float(met.error[of].sum() / total)),
                n=int(some.sum()),
                circuit=Seen(rate=float((error != 0).mean()), error=float(error.mean())) if len(error) else None,
                simulated=len(error),
                residual=float(np.sqrt(np.mean(rest**2))) if len(rest) else None,
                model=model,
                table=table,
            )
        )
    return tuple(found)
