"""Settings measured: accuracy and loss of a network on a few dies of a lot of their own, ranges fitted anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bitline import draws
from bitline.evaluate import fingerprint
from bitline.evaluate.ledger import packed, records, unpacked, write
from bitline.evaluate.montecarlo import Batch, blocks
from bitline.files import digest
from bitline.macro import Chip, Macro
from bitline.nn import calibrate, calibrated, kept, layers, moved, on_chip, silicon, streamlined
from bitline.nn.ranges import ConverterRange


@dataclass(frozen=True)
class Measured:
    """What a setting does on the dies: answers (chips, images), 0 or 1, and the mean cross entropy."""

    right: Tensor
    loss: float

    @property
    def accuracy(self) -> float:
        """Mean over chips and images, %."""
        return 100 * float(self.right.double().mean())


def placed(model: nn.Module, macros: Mapping[str, Macro], calibration: Sequence[Tensor]) -> nn.Module:
    """A copy of a model, layers on other macros; ranges of those that changed are fitted again."""
    here = moved(model, macros)
    for name, layer in layers(here).items():
        macro = layer.design
        if macro.converter is not None and macro != layers(model)[name].design:
            layer.converters = ConverterRange(macro.converter, *macro.value_range).to(layer.weight.device)
    if not calibrated(here):
        calibrate(here, calibration, len(calibration))
    return here.eval()


@torch.no_grad()
def measured(model: nn.Module, batches: Callable[[], Iterable[Batch]], chips: int, seed: int) -> Measured:
    """Answers and loss on ``chips`` dies that are neither trained on nor tested with."""
    device = next(model.parameters()).device
    right, losses = [], []
    with kept(model):
        model.eval()
        silicon(model).seed = seed
        for number in range(chips):
            on_chip(model, Chip(draws.key("search lot", seed), number))
            network = streamlined(model)
            answers, loss = [], 0.0
            for x, y, index, real in blocks(batches()):
                silicon(model).begin(index.to(device))
                y_hat, wanted = network(x.to(device)).cpu()[:real], y[:real]
                answers.append((y_hat.argmax(1) == wanted).to(torch.uint8))
                loss += float(cross_entropy(y_hat.double(), wanted, reduction="sum"))
            right.append(torch.cat(answers))
            losses.append(loss / len(right[-1]))
    return Measured(torch.stack(right), sum(losses) / chips)


@dataclass
class Screen:
    """A network on settings, each measured once; what a file remembers is not measured again."""

    model: nn.Module
    batches: Callable[[], Iterable[Batch]]
    calibration: Sequence[Tensor]
    chips: int
    seed: int
    path: Path | None
    context: str  # what else sets the answers: the data
    known: dict[str, Measured] = field(default_factory=dict)

    def __post_init__(self) -> None:
        network = fingerprint(self.model, f"{self.context} {self.chips} {self.seed}", "search")
        self.key = lambda text: digest(f"{network} {text}")
        for record in records(self.path) if self.path is not None else ():
            try:
                right = unpacked(record["right"], record["chips"], record["images"])
                self.known[record["key"]] = Measured(right, float(record["loss"]))
            except (ValueError, KeyError, TypeError):
                continue

    def __call__(self, macros: Mapping[str, Macro]) -> Measured:
        """The network with its layers on these macros."""
        key = self.key(" ".join(f"{name} {macros[name].fingerprint}" for name in sorted(macros)))
        if key not in self.known:
            found = measured(placed(self.model, macros, self.calibration), self.batches, self.chips, self.seed)
            if self.path is not None:
                chips, images = found.right.shape
                record = {"key": key, "chips": chips, "images": images, "loss": found.loss}
                write(self.path, record | {"right": packed(found.right)})
            self.known[key] = found
        return self.known[key]
