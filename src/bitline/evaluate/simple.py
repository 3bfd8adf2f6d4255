"""One call from networks on their macros to a result; networks given together meet the same chips, images and reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bitline.compensate import sides
from bitline.cost import side_costs
from bitline.evaluate.diagnose import explanation, layer_reports, sensitivity
from bitline.evaluate.ledger import Ledger
from bitline.evaluate.montecarlo import Batch, answers, without_errors
from bitline.evaluate.result import Result, Row
from bitline.evaluate.statistics import difference, row
from bitline.evaluate.workers import Workers, opened
from bitline.nn import layers, mapping, use


def evaluate(
    models: nn.Module | Mapping[str, nn.Module],
    data: Iterable[Any],
    *,
    chips: int = 20,
    seed: int = 0,
    target: float | None = None,
    corners: bool = False,
    details: bool = True,
    title: str = "Evaluation",
    workers: Workers | None = None,
) -> Result:
    """Accuracy over ``chips`` dies, with intervals, and what each layer met.

    ``models``: a converted network, or several by name (two macros, two methods), on the same chips, images and reads,
    each less the one before it; a float network among them gives a row of its own. ``data``: batches (x, y) or
    (x, y, index), walked once for each chip; without an index samples are counted. ``corners``: also each corner of the
    macro. ``details``: per-layer figures, sensitivity and explanation of the first converted model. ``workers``: share
    the chips out over them, results stay the same to the byte. Raises ValueError for empty data, data in another order
    at each walk, NaN inputs or NaN outputs.
    """
    if isinstance(data, Iterator):
        raise TypeError(f"data is a {type(data).__name__}, which can be walked once: give a loader or a list")
    named = dict(models) if isinstance(models, Mapping) else {"on chips": models}
    source = Source(data)
    rows: list[Row] = []
    matrices: dict[str, Tensor] = {}
    with opened(workers) as pool:
        for name, model in named.items():
            if not layers(model):
                rows.append(row(answers(model, source())[None], name, "none", seed=seed))
                continue
            rows.append(_on_ideal(model, name if len(named) > 1 else None, source, seed))
            for condition in (None, *(_corners(model) if corners else ())):
                at_corner(model, condition)
                matrix = Ledger(None, "", pool).over_chips(model, name, source, chips, seed)
                macro = rows[-1].macro
                rows.append(row(matrix, name, macro, target=target, condition=condition or "nominal", seed=seed))
                matrices.setdefault(name, matrix)
            use(model)
    if not matrices:
        raise ValueError("no model is on a macro: call bitline.convert(model, macro) first")
    names = list(matrices)
    pairs = [(of, against) for against, of in pairwise(names)]
    first = named[names[0]]
    some = min(chips, 3)
    return Result(
        title=title,
        sentence=_sentence(
            next(r.mean for r in rows if r.macro != "none"),
            {name: float(m.double().mean()) * 100 for name, m in matrices.items()},
            chips,
        ),
        rows=tuple(rows),
        differences=tuple(difference(matrices[a], matrices[b], (a, b), seed) for a, b in pairs),
        layers=layer_reports(first, source, names[0], some, seed=seed) if details else (),
        sensitivity=sensitivity(first, source, names[0], some, seed) if details else (),
        explanation=explanation(first, source, names[0], some, seed) if details else (),
        mapping=tuple(m for model in named.values() for m in mapping(model)),
        overheads={name: side_costs(m, next(source())[0][:1]) for name, m in named.items() if sides(m)},
        macros={layer.design.name: layer.design.dump() for model in named.values() for layer in layers(model).values()},
        facts={"seed": str(seed)},
    )


def _on_ideal(model: nn.Module, name: str | None, source: Source, seed: int) -> Row:
    """The row of a network on its macros made ideal; ``name`` tells it from others."""
    macro = ", ".join(dict.fromkeys(layer.design.name for layer in layers(model).values()))
    right = without_errors(model, source())[None]
    return row(right, f"{name}: ideal macro" if name else "ideal macro", macro, seed=seed)


def _corners(model: nn.Module) -> dict[str, None]:
    """Names of the corners of a model's macros, each once."""
    return dict.fromkeys(corner for layer in layers(model).values() for corner in layer.design.corners)


def at_corner(model: nn.Module, corner: str | None) -> None:
    """Compute at a corner of the macros that have it; None: as designed."""
    use(model, lambda macro: macro.at(corner) if corner in macro.corners else macro)


def _sentence(ideal: float, means: Mapping[str, float], chips: int) -> str:
    told = "; ".join(f"{name}: {mean:.2f} %" for name, mean in means.items())
    return f"{told} on average over {chips} chips, {ideal:.2f} % on an ideal macro."


class Source:
    """Batches with an index, counted where the loader gives none; the same ones at every walk, or ValueError."""

    def __init__(self, data: Iterable[Any]) -> None:
        self.data = data
        self.digest: bytes | None = None

    def __call__(self) -> Iterator[Batch]:
        count, digest = 0, hashlib.blake2b()
        for batch in self.data:
            x, y = batch[0], batch[1]
            index: Tensor = batch[2] if len(batch) > 2 else torch.arange(count, count + len(y))
            count += len(y)
            digest.update(f"{y.tolist()} {float(x.double().sum())}".encode())
            yield x, y, index
        if self.digest is None:
            self.digest = digest.digest()
        elif self.digest != digest.digest():
            raise ValueError("the data came in another order at the second walk: pairing needs shuffle=False")

    def key(self) -> str:
        """A hash of the data, which are walked for it."""
        if self.digest is None:
            for _ in self():
                pass
        assert self.digest is not None
        return self.digest.hex()[:16]
