"""What an evaluation found: the one set of types that the JSON file, the tables and the HTML report are made of.

Accuracies are in per cent, ratios of signal to noise in dB, rates between 0 and 1. A result holds no time, path or
host name, so that two runs with one seed write the same bytes; those go to ``run.json`` beside it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, ConfigDict, Field

from bitline.configuration import Frozen
from bitline.cost import SideCost
from bitline.files import Saved
from bitline.nn.convert import Mapped

By = Literal["mean", "p5"]


class Row(Frozen):
    """Accuracy of one network on one macro over many chips."""

    method: str = Field(description="how the network was made: 'float', 'untrained on chips', 'error-aware' …")
    macro: str = Field(description="name of the macro it ran on; 'none' for the float network")
    mean: float = Field(description="mean accuracy over chips and images, %")
    ci95: tuple[float, float] = Field(
        description="95 % interval of the mean, two-way bootstrap over chips and images, %"
    )
    p5: float | None = Field(description="5th percentile over chips, %; null below 20 chips")
    worst: float = Field(description="accuracy of the worst chip, %")
    chips: int
    images: int
    per_chip: tuple[float, ...] = Field(description="accuracy of each chip, %")
    target: float | None = Field(default=None, description="accuracy a chip must reach to count as good, %")
    yield_: float | None = Field(default=None, alias="yield", description="share of chips at or above the target, %")
    condition: str = Field(default="nominal", description="temperature/supply corner")
    steps: int | None = Field(default=None, description="optimiser steps spent after the float network")

    model_config = ConfigDict(populate_by_name=True)

    def reached(self, by: By = "mean") -> float:
        """The mean, or the 5th percentile over chips (of fewer than 20: the worst), %."""
        return self.mean if by == "mean" else self.worst if self.p5 is None else self.p5

    @property
    def told(self) -> str:
        """The mean with its interval, in words."""
        return f"{self.mean:.2f} % [{self.ci95[0]:.2f}, {self.ci95[1]:.2f}]"


class Difference(Frozen):
    """Two rows on the same chips, images and reads, subtracted pair by pair: ``of`` less ``against``, of either sign.

    Files written before these names say ``better`` and ``worse``.
    """

    of: str = Field(validation_alias=AliasChoices("of", "better"))
    against: str = Field(validation_alias=AliasChoices("against", "worse"))
    mean: float = Field(description="mean of ``of`` − ``against``, percentage points")
    ci95: tuple[float, float] = Field(description="95 % interval, paired two-way bootstrap, percentage points")


class LayerReport(Frozen):
    """What one layer met on the macro, pooled over the chips and images of a row."""

    method: str
    macro: str
    layer: str
    snr_db: float | None = Field(
        description="compute SNR: power of the ideal product over power of its error, dB; null: no error"
    )
    error_rate: float = Field(description="share of conversions whose code is not the ideal one")
    clipped: float = Field(description="share of conversions at the first or last code because the value lay outside")
    codes: tuple[int, ...] = Field(description="histogram of converter codes, code 0 first; empty without a converter")


class LayerGain(Frozen):
    """How much larger one layer can make what comes in, spectral norms of its matrix, of groups the largest; and how
    large the errors of its weights are."""

    layer: str
    shape: tuple[int, ...] = Field(description="(outputs, inputs) of a group")
    norm: float = Field(description="of the clean weights")
    after_norm: float | None = Field(description="with γ / √(var + ε) of the batch norm behind it; null: there is none")
    wanted: float | None = Field(description="λ of a suppression; null: exempt, or none asked about")
    on_chips: float | None = Field(description="of the weights of a die, on average; null: no error of frozen weights")
    error: float | None = Field(
        default=None, description="rms error of a weight on the macro over its rms; null: no error of weights"
    )


class Sensitivity(Frozen):
    """Accuracy with one layer alone on real chips, the others ideal."""

    method: str
    layer: str
    mean: float
    loss: float = Field(description="points lost against the ideal macro")


class Cause(Frozen):
    """Accuracy with one imperfection switched to ideal, all others kept."""

    method: str
    cause: str = Field(description="'clipping', 'resolution', 'variation', 'noise', 'curve' …")
    mean: float
    gain: float = Field(description="points won by making this one ideal")


class Seen(Frozen):
    """Errors of conversions: how often, and which way."""

    rate: float = Field(description="share whose code is not that of their sum")
    error: float = Field(description="mean of code less ideal code, LSB")


class Band(Frozen):
    """Conversions of a trained network whose sums lie in a band."""

    low: int = Field(description="smallest sum, counts; of legs that meet: with their signs")
    high: int = Field(description="largest sum, counts")
    share: float = Field(description="of the network's conversions, which the band holds")
    network: Seen = Field(description="all of them, as the network ran on the behavioural model")
    n: int = Field(description="of them, drawn at random, which the rest is of")
    circuit: Seen | None = Field(description="in ngspice, each on a die of its own; null: not simulated")
    simulated: int = Field(description="of the n, those that ngspice finished")
    residual: float | None = Field(
        default=None,
        description="ngspice's value less that of the behavioural model of the same die, LSB rms; null: not simulated",
    )
    model: Seen = Field(description="expected over dies, behavioural model")
    table: Seen = Field(description="expected over dies and patterns, error model: from the sum, or that of each leg")


class Verification(Saved):
    """A trained network on the behavioural model of its macro's circuit, on dies it has never met, and its conversions
    in the circuit itself."""

    FILE: ClassVar[str] = "verify-METHOD.json"

    method: str
    circuit: str
    rows: tuple[Row, ...] = Field(
        description="ideal macro, macro it was trained for, behavioural model: the last two on the same fresh dies"
    )
    bands: tuple[Band, ...]
    simulator: str = Field(description="version of ngspice, or why nothing was simulated")
    assumed: str = Field(default="", description="what of a conversion is simulated, and what is taken to be ideal")
    left_over: float | None = Field(
        default=None, description="residual of a conversion that the behavioural model's own fit leaves, LSB rms"
    )


class Result(Saved):
    """Everything one evaluation or experiment found."""

    FILE: ClassVar[str] = "result.json"

    title: str
    sentence: str = Field(description="the summary, in one sentence")
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...] = ()
    layers: tuple[LayerReport, ...] = ()
    mapping: tuple[Mapped, ...] = ()
    overheads: dict[str, tuple[SideCost, ...]] = Field(
        default_factory=dict, description="what side paths cost, by the row of their network; last of each the total"
    )
    gains: dict[str, tuple[LayerGain, ...]] = Field(
        default_factory=dict, description="norms and errors of weights, by the row of their network"
    )
    sensitivity: tuple[Sensitivity, ...] = ()
    explanation: tuple[Cause, ...] = ()
    macros: dict[str, dict[str, Any]] = Field(default_factory=dict, description="each macro's configuration, by name")
    facts: dict[str, str] = Field(
        default_factory=dict, description="settings to print: seed, frozen σ, curve, data set …"
    )
