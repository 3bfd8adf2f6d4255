"""What a sweep found: accuracy of every method at every point of a grid of changes, on the same chips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

import yaml
from pydantic import Field

from bitline.configuration import Frozen
from bitline.evaluate.result import Difference, Row, Sensitivity
from bitline.files import Saved

Settings = dict[str, Any]
IDEAL = "ideal macro"


class Over(Frozen):
    """A key that is changed, and the values it takes one after another."""

    key: str = Field(description="as in an experiment: 'macro.variation.sigma'")
    values: tuple[Any, ...] = Field(min_length=1)

    @staticmethod
    def read(text: str, option: str = "--over") -> Over:
        """From ``key=value,value``, the values in YAML; raises ValueError naming ``option`` and what is expected."""
        key, equals, values = text.partition("=")
        try:
            found = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            raise ValueError(f"{option} {text!r}: {values!r} are no values in YAML, with commas between") from None
        if not (key and equals and found):
            raise ValueError(f"{option} {text!r}: expected key=value,value, such as macro.variation.sigma=0.05,0.1")
        return Over(key=key, values=tuple(map(_number, found)))


def _number(value: Any) -> Any:
    """1e-3 is a word to YAML."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def grid(over: Sequence[Over]) -> Iterator[Settings]:
    """Every combination of values, the last key changing fastest. Raises ValueError where a key or a value repeats."""
    keys = [each.key for each in over]
    if len(set(keys)) < len(keys):
        raise ValueError(f"a key is given twice: {', '.join(keys)}")
    for each in over:
        if len({str(value) for value in each.values}) < len(each.values):
            raise ValueError(f"{each.key} takes a value twice: {', '.join(map(str, each.values))}")
    for values in product(*(each.values for each in over)):
        yield dict(zip(keys, values, strict=True))


def told(settings: Mapping[str, Any], short: bool = False) -> str:
    """Settings in words; ``short``: keys by their last part, where that tells them apart."""
    names = list(settings)
    if short and len({name.rpartition(".")[2] for name in names}) == len(names):
        names = [name.rpartition(".")[2] for name in names]
    return ", ".join(f"{name} = {value}" for name, value in zip(names, settings.values(), strict=True))


class Point(Frozen):
    """One point of a sweep."""

    settings: Settings
    rows: tuple[Row, ...] = Field(description="each method on the same chips, images and reads; first the ideal macro")
    differences: tuple[Difference, ...] = Field(default=(), description="the best row on chips less each other")
    sensitivity: tuple[Sensitivity, ...] = ()

    @property
    def on_chips(self) -> tuple[Row, ...]:
        """The rows that met chips."""
        return tuple(row for row in self.rows if row.method != IDEAL)

    @property
    def best(self) -> Row:
        """The row on chips with the highest mean."""
        return max(self.on_chips, key=lambda row: row.mean)


class Sweep(Saved):
    """Everything a sweep found. It holds no time, path or host name: two sweeps with one seed write the same bytes."""

    FILE: ClassVar[str] = "sweep.json"

    title: str
    sentence: str = Field(description="the summary")
    trained: str = Field(description="which network met which point: trained once, or for each value of some key")
    over: tuple[Over, ...]
    float_rows: tuple[Row, ...] = Field(default=(), description="networks without a macro: the same at every point")
    points: tuple[Point, ...]
    macros: dict[str, Settings] = Field(default_factory=dict, description="each macro before any change, by name")
    facts: dict[str, str] = Field(default_factory=dict)

    @property
    def methods(self) -> tuple[str, ...]:
        """The rows there are at some point, the ideal macro's left out."""
        return tuple(dict.fromkeys(row.method for point in self.points for row in point.on_chips))


def sentence(points: Sequence[Point]) -> str:
    """What a sweep shows: who is best where, and from what to what the best and the worst method fall."""
    wins: dict[str, list[Settings]] = {}
    for point in points:
        wins.setdefault(point.best.method, []).append(point.settings)
    leader = max(wins, key=lambda name: len(wins[name]))
    where = "at every point" if len(wins) == 1 else f"at {len(wins[leader])} of {len(points)} points"
    ends = points[0], points[-1]

    def path(method: str, place: str = "") -> str:
        means = [row.mean for point in ends for row in point.on_chips if row.method == method]
        return f"{method}{place}, {' → '.join(f'{mean:.1f} %' for mean in means)}"

    last = min(ends[1].on_chips, key=lambda row: row.mean).method
    lead = path(leader, f" is the best {where}")
    text = f"From {told(ends[0].settings, True)} to {told(ends[1].settings, True)}: {lead}"
    return text + (f"; {path(last)}." if last != leader else ".")
