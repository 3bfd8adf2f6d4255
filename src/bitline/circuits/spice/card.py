"""Model cards, and other files that a netlist reads: where they lie, and what is in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

HERE = Path(str(files("bitline.circuits.spice")))
CARD = "\x00card {}\x00"  # stands for a file's path, so that a deck's text is the same wherever the file lies
_INCLUDE = re.compile(
    r"^(?P<word>[ \t]*\.(?P<kind>inc|lib)\w*[ \t]+)"
    r"(?P<quote>[\"']?)(?P<name>(?<=[\"'])[^\"'\n\x00]+|[^\s\"'\x00]+)(?P=quote)(?P<rest>[^\n]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_COMMENT = re.compile(r"[;$]|//")


class Part(BaseModel):
    """A frozen part of a circuit's description."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Card(Part):
    """Model cards: files that are included, and what the models in them are called.

    ``{corner}`` in a path is the corner's name in ``corners``. A card without ``corners`` has `.lib` sections named as
    the corners are.
    """

    files: tuple[str, ...] = Field(min_length=1, description="paths, relative ones to the circuit's own file")
    corners: dict[str, str] | None = Field(default=None, description="what each corner is called in the paths")
    nmos: str = Field(description="name of the n-channel model")
    pmos: str = Field(description="name of the p-channel model")

    def paths(self, corner: str, beside: Path) -> list[Path]:
        """The files at a corner; raises ValueError for a corner that is not there, FileNotFoundError for a file."""
        if self.corners is not None and corner not in self.corners:
            raise ValueError(f"corner {corner!r}: the card has {', '.join(self.corners)}")
        name = corner if self.corners is None else self.corners[corner]
        found = [beside / file.replace("{corner}", name) for file in self.files]
        for path in found:
            if not path.is_file():
                raise FileNotFoundError(f"no model card at {path} (corner {corner}): give `card.files` that exist")
        return found


GENERIC = Card(files=(str(HERE / "cards" / "generic45.lib"),), nmos="generic_n", pmos="generic_p")


def includes(text: str) -> Iterator[re.Match[str]]:
    """The lines by which a netlist or a card reads another file: its ``name``, the ``word`` before and the ``rest``.
    `.lib NAME` alone begins a section."""
    for found in _INCLUDE.finditer(text):
        if found["kind"].lower() == "inc" or _COMMENT.split(found["rest"])[0].strip():
            yield found


def path_of(name: str, folder: Path) -> Path:
    """Where a file that is included lies: relative paths start from the folder of the file that includes it."""
    return folder / Path(name).expanduser()


def digest(file: Path, size: int = 16, seen: frozenset[Path] = frozenset()) -> str:
    """Hash of a file, and of all that it includes."""
    content = file.read_bytes()
    total = hashlib.blake2b(content, digest_size=size)
    for found in includes(content.decode(errors="replace")):
        inner = path_of(found["name"], file.parent).resolve()
        if inner.is_file() and inner not in seen:
            total.update(digest(inner, size, seen | {file.resolve()}).encode())
    return total.hexdigest()
