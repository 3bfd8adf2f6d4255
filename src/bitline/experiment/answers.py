"""Answers of networks on chips, kept as they come, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from bitline.evaluate import over_chips
from bitline.evaluate.montecarlo import Batch


@dataclass(frozen=True)
class Answers:
    """A folder of answer matrices, one file a row, each bound to the network and the settings that gave it."""

    folder: Path
    context: str

    def key(self, model: nn.Module, name: str) -> str:
        """Hash of everything that sets the answers of ``model`` in row ``name``."""
        digest = hashlib.blake2b(f"{self.context}|{name}".encode(), digest_size=8)
        for key, value in model.state_dict().items():
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def over_chips(
        self,
        model: nn.Module,
        name: str,
        source: Callable[[], Iterable[Batch]],
        chips: int,
        seed: int,
        tell: Callable[[int, float], None],
        prepare: Callable[[nn.Module, int], None] | None = None,
    ) -> Tensor:
        """Matrix (chips, images); chips answered before are not asked again. ``tell(chip, accuracy)`` as they come."""
        path = self.folder / f"{self.key(model, name)}.safetensors"
        known = _known(path)
        found: list[Tensor] = []
        for number in range(min(chips, len(known))):
            found.append(known[number])
            tell(number, 100 * float(known[number].double().mean()))
        if len(found) < chips:
            for trial in over_chips(model, source, chips, seed, prepare, first=len(found)):
                found.append(trial.right)
                _save(path, torch.stack(found))
                tell(trial.chip, 100 * float(trial.right.double().mean()))
        return torch.stack(found)


def _known(path: Path) -> Tensor:
    if not path.exists():
        return torch.zeros(0, 0, dtype=torch.uint8)
    try:
        return safetensors.torch.load_file(path)["right"]
    except Exception:  # a damaged file is only a memory of work done: do it again
        path.unlink()
        return torch.zeros(0, 0, dtype=torch.uint8)


def _save(path: Path, right: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    safetensors.torch.save_file({"right": right.contiguous()}, temporary)
    temporary.replace(path)
