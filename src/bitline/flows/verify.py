"""S0's verification: a trained network on the behavioural model of its circuit, on dies that nobody has met, and its
own conversions in ngspice.

(Chang, Liu, Kuster, SMACD 2022; a reconstruction.) Nothing here is read from the error model a network may have been
trained with, nor from a die of the training or the test lot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from bitline import draws
from bitline.circuits.spice import Circuit, SimulationError, Simulator, Volts, characterize
from bitline.converters import Adc, FixedRange
from bitline.evaluate import Band, Row, Seen, Verification, answers, over_chips, row, testing_chip
from bitline.evaluate.montecarlo import Batch, blocks
from bitline.macro import (
    Behaviour,
    Expected,
    Macro,
    Probe,
    behaviour_of,
    error_model,
    expected_errors,
    ideal,
    ideal_codes,
)
from bitline.macro.behaviour import Shape
from bitline.macro.characterised import shape_of
from bitline.macro.kinds import TableColumn
from bitline.nn import kept, layers, on_chip, silicon, use
from bitline.samples import Samples

Source = Callable[[], Iterable[Batch]]
BANDS = 8  # of sums
DICE = 2  # that conversions are drawn from


def verification_seed(seed: int) -> int:
    """Seed of the dies of a verification: another lot than those of training and of tests."""
    return draws.key("verification lot", seed)


def on_behaviour(design: Macro, behaviour: Behaviour) -> Macro:
    """A macro with a circuit's behavioural model in place of its own columns, cells or table.

    Raises ValueError where the macro is not one of such columns: rows, digits, levels or converter differ.
    """
    shape = behaviour.shape
    wanted = Adc(bits=shape.bits, range=FixedRange(low=0.0, high=shape.step * (2**shape.bits - 1)))
    pairs: list[tuple[str, object, object]] = [
        ("rows on", design.on, shape.rows),
        ("largest digit", design.digit_high, shape.digits - 1),
        ("largest level", design.level_high, shape.levels - 1),
        ("columns a conversion", len(design.leg_signs), 1),
    ]
    if not isinstance(design.column, TableColumn):  # a table of codes brings no converter
        adc = design.converter
        pairs.append(("codes", adc.codes if adc else None, wanted.codes))
        pairs.append(("range", adc.range if adc else None, wanted.range))
    for name, mine, its in pairs:
        if mine != its:
            raise ValueError(f"macro {design.name} is not one of this circuit's columns: {name} {mine}, not {its}")
    converter = wanted if design.converter is None else design.converter
    return design.model_copy(update={"column": behaviour.column(), "cell": behaviour.cell(), "converter": converter})


class Conversions(Probe):
    """Conversions of a network by the sum of their columns: how many, how many wrong, and from each of ``bands`` of
    sums ``each`` of them drawn at random, as the digits and levels that met."""

    wants_codes = True

    def __init__(self, shape: Shape, each: int, bands: int = BANDS, seed: int = 0) -> None:
        self.shape, self.each, self.bands = shape, each, bands
        self.top = shape.rows * (shape.digits - 1) * (shape.levels - 1)
        self.total = np.zeros(self.top + 1, dtype=np.int64)  # by sum
        self.wrong = np.zeros(self.top + 1, dtype=np.int64)
        self.error = np.zeros(self.top + 1)  # Σ (code - ideal code)
        self.rng = np.random.default_rng(abs(seed))
        self.drawn: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [
            (np.empty(0), np.empty((0, shape.rows), dtype=np.int8), np.empty((0, shape.rows), dtype=np.int8))
            for _ in range(bands)
        ]  # in each band: lots drawn, x, w

    def columns(self, x: Tensor, held: Tensor) -> None:
        self.x, self.held = x, held[:, :, :, 0]  # one leg

    def codes(self, code: Tensor, clipped: Tensor, ideal: Tensor) -> None:
        sums = torch.einsum("gmr,grcn->gmcn", self.x.double(), self.held.double()).long().cpu().numpy()
        self.total += np.bincount(sums.ravel(), minlength=len(self.total))
        error = (code - ideal).double().cpu().numpy()
        self.wrong += np.bincount(sums[error != 0], minlength=len(self.wrong))
        self.error += np.bincount(sums.ravel(), error.ravel(), minlength=len(self.error))
        lots, band = self.rng.random(sums.shape), self.band(sums)
        for b in range(self.bands):
            before, xs, ws = self.drawn[b]
            most = before.max() if len(before) == self.each else 1.0
            g, m, c, n = np.nonzero((band == b) & (lots < most))
            if not len(g):
                continue
            new = lots[g, m, c, n]
            first = np.argsort(new, kind="stable")[: self.each]
            g, m, c, n = (index[first] for index in (g, m, c, n))
            x = self._rows(self.x[g, m].cpu().numpy())
            w = self._rows(self.held[g, :, c, n].cpu().numpy())
            joined = np.concatenate([before, new[first]])
            keep = np.argsort(joined, kind="stable")[: self.each]
            self.drawn[b] = (joined[keep], np.concatenate([xs, x])[keep], np.concatenate([ws, w])[keep])

    def band(self, sums: np.ndarray) -> np.ndarray:
        """Band of each sum: equal ones up to the converter's last count, beyond it the last."""
        return np.minimum(sums * self.bands // (self.shape.counts + 1), self.bands - 1)

    def _rows(self, values: np.ndarray) -> np.ndarray:
        """As a column of all rows: those of a ragged tile that are off hold and get nothing."""
        return np.pad(values, ((0, 0), (0, self.shape.rows - values.shape[1]))).astype(np.int8)

    @property
    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """(x, w) of those drawn, band after band."""
        return np.concatenate([x for _, x, _ in self.drawn]), np.concatenate([w for _, _, w in self.drawn])


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

    ``samples``, ``dice``: of the circuit without and with mismatch (``characterize``), which the behavioural model is
    fitted to. ``simulator``: absent, nothing is simulated; where ngspice is not installed, or points fail, the result
    says so and holds the rest. The model stays as it is. Raises ValueError where the samples are of another circuit, or
    a layer's macro is not made of such columns.
    """
    for told in (samples, dice):
        mine = circuit.model_dump(mode="json", exclude={"card"})
        if told.provenance.get("circuit") != mine:
            other = (told.provenance.get("circuit") or {}).get("name", "no circuit")
            raise ValueError(f"these samples are of {other}, or of other figures than circuit {circuit.name} has now")
    behaviour = behaviour_of(samples, dice)
    fresh = verification_seed(seed)
    try:
        rows = [_row("ideal macro", model, source, 0, fresh, ideal)]
        rows.append(_row("macro", model, source, chips, fresh, lambda design: design))
        variant = lambda design: on_behaviour(design, behaviour)  # noqa: E731
        rows.append(_row("behavioural model", model, source, chips, fresh, variant))
        met = Conversions(behaviour.shape, max(1, conversions // BANDS), seed=fresh)
        _collect(model, source, images, fresh, met)
    finally:
        use(model)
    x, w = met.vectors
    expected = expected_errors(x, w, behaviour, error_model(behaviour, samples["x"], samples["w"]))
    error, said = _simulated(circuit, x, w, samples, simulator, fresh)
    return Verification(
        method=method, circuit=circuit.name, rows=tuple(rows), bands=_bands(met, x, w, expected, error), simulator=said
    )


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


def _simulated(
    circuit: Circuit, x: np.ndarray, w: np.ndarray, samples: Samples, simulator: Simulator | None, seed: int
) -> tuple[np.ndarray, str]:
    """(code less ideal code of each conversion in ngspice, NaN where there is none; who said so)."""
    error = np.full(len(x), np.nan)
    if simulator is None:
        return error, "not asked for"
    axis = Volts(float(samples.provenance["zero"]), float(samples.provenance["lsb"]))
    try:
        said = simulator.version
        found = characterize(circuit, x, w, simulator, chips=np.arange(len(x)), seed=seed, axis=axis)
        done, told = np.arange(len(x)), found
    except FileNotFoundError as absent:
        return error, str(absent)
    except SimulationError as failed:
        if failed.samples is None:
            return error, str(failed)
        said, told = f"{said}; {failed}", failed.samples
        done = np.setdiff1d(np.arange(len(x)), list(failed.failures))
    error[done] = told.code - ideal_codes(told.ideal, shape_of(circuit))
    return error, said


def _bands(
    met: Conversions, x: np.ndarray, w: np.ndarray, expected: tuple[Expected, Expected], error: np.ndarray
) -> tuple[Band, ...]:
    """Band by band, those without a conversion left out."""
    every = np.arange(len(met.total))
    sums = np.einsum("nr,nr->n", x, w, dtype=np.int64)
    found = []
    for b in range(met.bands):
        of, some = met.band(every) == b, met.band(sums) == b
        if not some.any():
            continue
        there, total = every[of][met.total[of] > 0], met.total[of].sum()
        real = error[some][~np.isnan(error[some])]
        model, table = (Seen(rate=float(e.rate[some].mean()), error=float(e.error[some].mean())) for e in expected)
        found.append(
            Band(
                low=int(there.min()),
                high=int(there.max()),
                share=float(total / met.total.sum()),
                network=Seen(rate=float(met.wrong[of].sum() / total), error=float(met.error[of].sum() / total)),
                n=int(some.sum()),
                circuit=Seen(rate=float((real != 0).mean()), error=float(real.mean())) if len(real) else None,
                simulated=len(real),
                model=model,
                table=table,
            )
        )
    return tuple(found)
