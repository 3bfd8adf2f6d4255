"""Answers of networks on chips, written down as they come, so that an interrupted evaluation goes on where it stopped.

A file a network holds a line a chip. A line is written at once and found whole or not at all, whatever was killed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitline.evaluate.montecarlo import Batch, Trial, over_chips
from bitline.evaluate.workers import Pool
from bitline.nn import layers, parts


@dataclass(frozen=True)
class Ledger:
    """A folder of answers, each bound to the network, its macros and what the ``context`` says; None: not kept."""

    folder: Path | None
    context: str
    pool: Pool | None = None  # of workers that answer

    def over_chips(
        self,
        model: nn.Module,
        name: str,
        source: Callable[[], Iterable[Batch]],
        chips: int,
        seed: int,
        tell: Callable[[int, float], None] = lambda count, accuracy: None,
        prepare: Callable[[nn.Module, int], None] | None = None,
    ) -> Tensor:
        """Matrix (chips, images) of 0 and 1; chips answered before are not asked again.

        ``tell(count, accuracy)`` of each as it comes, after ``count`` others, accuracies in per cent.
        """
        path = None if self.folder is None else self.folder / f"{fingerprint(model, self.context, name)}.jsonl"
        found = {n: right for n, right in (read(path) if path is not None else {}).items() if n < chips}
        for count, number in enumerate(sorted(found)):
            tell(count, 100 * float(found[number].double().mean()))
        if len(found) < max(chips, 1):
            for trial in over_chips(model, source, chips, seed, prepare, known=frozenset(found), pool=self.pool):
                if path is not None:
                    append(path, trial)
                tell(len(found), 100 * float(trial.right.double().mean()))
                found[trial.chip] = trial.right
        return torch.stack([found[number] for number in range(chips)])


UNKEPT = Ledger(None, "")


def fingerprint(model: nn.Module, *context: str) -> str:
    """Hash of everything that sets a network's answers: what it holds, its macros and what the ``context`` says."""
    macros = [f"{site} {part.macro.fingerprint} {part.cause}" for site, part in parts(model).items()]
    digest = hashlib.blake2b("|".join([*context, *macros]).encode(), digest_size=8)
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for site, layer in layers(model).items():
        if layer.verified is not None:
            digest.update(site.encode() + layer.verified.cpu().numpy().tobytes())
        if layer.side is not None:
            digest.update(f"{site} {layer.side.config!r}".encode())
    return digest.hexdigest()


def read(path: Path) -> dict[int, Tensor]:
    """Answers by chip; a line that is not whole is only a memory of work done, which is done again."""
    found = {}
    for record in records(path):
        try:
            found[int(record["chip"])] = unpacked(record["right"], record["images"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def append(path: Path, trial: Trial) -> None:
    """Write one chip's answers at the end of a file, which may end in the middle of a line."""
    write(path, {"chip": trial.chip, "images": len(trial.right), "right": packed(trial.right)})


def packed(right: Tensor) -> str:
    """Answers, 0 or 1 of any shape, as text."""
    return base64.b64encode(np.packbits(right.numpy()).tobytes()).decode()


def unpacked(text: str, *shape: int) -> Tensor:
    """Answers of a ``shape`` from text; raises ValueError where there are too few, or it is no such text."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8))
    return torch.from_numpy(bits[: math.prod(shape)].reshape(shape))


def records(path: Path) -> Iterator[Any]:
    """The whole lines of a file of records, none if there is no file."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValueError):
            yield json.loads(line)


def write(path: Path, record: Any) -> None:
    """Write a record at the end of a file, which may end in the middle of a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"\n{json.dumps(record)}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)
