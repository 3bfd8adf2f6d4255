"""Networks trained once, tested on a grid of macros: each method on the same chips, images and reads at every point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from bitline.compensate import Patching, Trimming
from bitline.configuration import explain, lay
from bitline.evaluate.batchnorm import Recalibration
from bitline.evaluate.diagnose import sensitivity
from bitline.evaluate.ledger import UNKEPT, Ledger
from bitline.evaluate.montecarlo import Batch, answers
from bitline.evaluate.result import Row, Sensitivity
from bitline.evaluate.simple import Source
from bitline.evaluate.statistics import difference, row
from bitline.evaluate.swept import IDEAL, Over, Point, Settings, Sweep, grid, sentence, told
from bitline.evaluate.workers import Workers, opened
from bitline.macro import Macro, ideal
from bitline.nn import calibrate, calibrated, layers, moved, parts, use

OnEachChip = Recalibration | Trimming | Patching
"""What is done on each chip before it is tested."""
Variant = tuple[str, nn.Module, OnEachChip | None]


def alone(name: str, model: nn.Module) -> Iterator[Variant]:
    """A network as it is."""
    yield name, model, None


@dataclass(frozen=True)
class Few:
    """The first ``images`` of a source."""

    source: Callable[[], Iterable[Batch]]
    images: int = 256

    def __call__(self) -> Iterator[Batch]:
        left = self.images
        for x, y, index in self.source():
            yield x[:left], y[:left], index[:left]
            if (left := left - len(y)) <= 0:
                return


@dataclass(frozen=True)
class Comparison:
    """How networks are tested at a point."""

    source: Callable[[], Iterable[Batch]]
    chips: int
    seed: int = 0
    target: float | None = None
    calibration: Iterable[Any] = ()  # batches for ranges that a point's macro leaves open
    calibration_batches: int = 8
    variants: Callable[[str, nn.Module], Iterable[Variant]] = alone  # rows of a network at a point
    details: Few | None = None  # for the sensitivity of layers
    detail_chips: int = 3
    ledger: Callable[..., Ledger] = lambda *context: UNKEPT  # where answers are kept, by what sets them besides
    tell: Callable[[str], None] = lambda line: None

    def point(self, models: Mapping[str, nn.Module], settings: Settings) -> Point:
        """All converted ``models`` on their macros changed by ``settings``."""
        found: dict[str, Tensor] = {}
        rows: list[Row] = []
        sensitive: list[Sensitivity] = []
        condition = told(settings)
        self.tell(condition)
        for name, model in models.items():
            here = self.placed(model, settings)
            macro = ", ".join(dict.fromkeys(layer.design.name for layer in layers(here).values()))
            if not rows:
                use(here, ideal)
                right = self.ledger(None).over_chips(here, IDEAL, self.source, 1, self.seed)
                use(here)
                rows.append(row(right, IDEAL, macro, condition=condition, seed=self.seed))
            for title, one, prepare in self.variants(name, here):
                ledger = self.ledger(prepare.key if prepare else None)
                right = ledger.over_chips(one, title, self.source, self.chips, self.seed, prepare=prepare)
                rows.append(row(right, title, macro, target=self.target, condition=condition, seed=self.seed))
                found[title] = right
                self.tell(f"  {title}: {rows[-1].told}")
            if self.details is not None:
                own = self.ledger("details", self.details.images)
                sensitive += sensitivity(here, self.details, name, self.detail_chips, self.seed, own)
        best = max(rows[1:], key=lambda one: one.mean).method
        pairs = [(best, name) for name in found if name != best]
        return Point(
            settings=settings,
            rows=tuple(rows),
            differences=tuple(difference(found[a], found[b], (a, b), self.seed) for a, b in pairs),
            sensitivity=tuple(sensitive),
        )

    def placed(self, model: nn.Module, settings: Settings) -> nn.Module:
        """A copy of a model on its macros changed by ``settings``; ranges they leave open are calibrated."""
        designs = {id(part.design): part.design for part in parts(model).values()}  # one object for many parts
        made = {key: changed(design, settings) for key, design in designs.items()}
        here = moved(model, lambda design: made[id(design)])
        if not calibrated(here):
            calibrate(here, self.calibration, self.calibration_batches)
        return here.eval()


def changed(macro: Macro, settings: Mapping[str, Any]) -> Macro:
    """A macro with keys changed (``macro.variation.sigma``); raises ValueError naming the key and what would do."""
    data = macro.dump()
    for key, value in settings.items():
        part = key.removeprefix("macro.")
        if part == key:
            raise ValueError(
                f"{key} is no key of the macro, so it cannot change between training and test: a sweep is over "
                "macro.…; what changes the training goes to --train-over"
            )
        lay(data, part, value, f"{key} = {value!r}")
    try:
        return Macro.model_validate(data)
    except ValidationError as error:
        raise ValueError(explain(error, Macro, f"{macro.name} with {told(settings)}")) from None


def sweep(
    models: nn.Module | Mapping[str, nn.Module],
    data: Iterable[Any],
    over: Mapping[str, Sequence[Any]],
    *,
    chips: int = 20,
    seed: int = 0,
    target: float | None = None,
    calibration: Iterable[Any] = (),
    details: bool = True,
    title: str = "Sweep",
    out: Path | str | None = None,
    workers: Workers | None = None,
) -> Sweep:
    """Accuracy of trained networks over ``chips`` dies at every combination of values of keys of their macros.

    ``models``, ``data``, ``target``, ``workers`` as of ``evaluate``; ``over``: values by key,
    ``{"macro.variation.sigma": [0.05, 0.1]}``. Weights, and the ranges of quantizers and converters as far as the
    point's macro has the same codes, stay as they were trained; others are calibrated with ``calibration``.
    ``details``: also the accuracy with each layer alone on chips, over three of them and the first batches up to 256
    samples. With ``out``, answers are kept there and a sweep that was interrupted goes on. Raises ValueError for keys
    that are not the macro's and values it cannot have.
    """
    named = dict(models) if isinstance(models, Mapping) else {"on chips": models}
    on_macros = {name: model for name, model in named.items() if layers(model)}
    if not on_macros:
        raise ValueError("no model is on a macro: call bitline.convert(model, macro) first")
    if IDEAL in on_macros:
        raise ValueError(f"a model is called {IDEAL!r}, which is a row of its own: give it another name")
    axes = tuple(Over(key=key, values=tuple(values)) for key, values in over.items())
    points = check((layer.design for model in on_macros.values() for layer in layers(model).values()), axes)
    source = Source(data)
    folder = None if out is None else Path(out) / "answers"
    with opened(workers) as pool:
        comparison = Comparison(
            source=source,
            chips=chips,
            seed=seed,
            target=target,
            calibration=calibration,
            details=Few(source) if details else None,
            ledger=lambda *more: Ledger(folder, f"{seed} {source.key() if folder else ''} {more}", pool),
        )
        found = [comparison.point(on_macros, settings) for settings in points]
    floats = [row(answers(m, source())[None], name, "none", seed=seed) for name, m in named.items() if not layers(m)]
    return Sweep(
        title=title,
        sentence=sentence(found),
        trained="The networks were given trained; none was trained for a point.",
        over=axes,
        float_rows=tuple(floats),
        points=tuple(found),
        macros={layer.design.name: layer.design.dump() for m in on_macros.values() for layer in layers(m).values()},
        facts={"seed": str(seed)},
    )


def check(designs: Iterable[Macro], over: Sequence[Over]) -> list[Settings]:
    """The points of a sweep; raises ValueError, before anything is computed, where a macro cannot have their values."""
    if not over:
        raise ValueError("a sweep needs a key and its values, such as macro.variation.sigma=0.05,0.1")
    points = list(grid(over))
    for design in {id(design): design for design in designs}.values():
        for settings in points:
            changed(design, settings)
    return points
