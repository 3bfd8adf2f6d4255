"""Model cards, and other files that a netlist reads: where they lie, and what is in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

    @model_validator(mode="after")
    def _tells_corners_apart(self) -> Card:
        if self.corners is not None and len(self.corners) > 1 and not any("{corner}" in file for file in self.files):
            raise ValueError(
                f"corners {', '.join(self.corners)} would be the same: no path in `files` has {{corner}}; for `.lib` "
                "sections leave `corners` out"
            )
        return self

    def paths(self, corner: str, beside: Path) -> list[Path]:
        """The files at a corner; raises ValueError for a corner that is not there, FileNotFoundError for a file."""
        if self.corners is not None and corner not in self.corners:
            raise ValueError(f"corner {corner!r}: the card has {', '.join(self.corners)}")
        name = corner if self.corners is None else self.corners[corner]
        found = [beside / file.replace("{corner}", name) for file in self.files]
        for path in found:
            if not path.is_file():
                raise FileNotFoundError(f"no model card at {path} (corner {corner}): give `card.files` that exist")
            if self.corners is None and corner.lower() not in (name.lower() for name in sections(path)):
                there = ", ".join(sections(path)) or "none: give `card.corners`"
                raise ValueError(f"corner {corner!r}: the `.lib` sections of {path} are {there}")
        return found


GENERIC = Card(files=(str(HERE / "cards" / "generic45.lib"),), nmos="generic_n", pmos="generic_p")


def includes(text: str) -> Iterator[re.Match[str]]:
    """The lines by which a netlist or a card reads another file: its ``name``, the ``word`` before and the ``rest``."""
    return (found for found in _INCLUDE.finditer(text) if not _begins(found))


def sections(file: Path, seen: frozenset[Path] = frozenset()) -> list[str]:
    """Names of the `.lib` sections of a card, and of what it includes."""
    text = file.read_text(encoding="utf-8", errors="replace")
    found = [line["name"] for line in _INCLUDE.finditer(text) if _begins(line)]
    for inner in _inner(text, file):
        if inner not in seen:
            found += sections(inner, seen | {file.resolve()})
    return list(dict.fromkeys(found))


def _begins(line: re.Match[str]) -> bool:
    """Whether a line is `.lib NAME`, which begins a section, and not `.lib FILE NAME`, which reads one."""
    return line["kind"].lower() == "lib" and not _COMMENT.split(line["rest"])[0].strip()


def _inner(text: str, file: Path) -> list[Path]:
    """The files that a file of this text includes and that are there."""
    found = (path_of(line["name"], file.parent).resolve() for line in includes(text))
    return [path for path in found if path.is_file()]


def path_of(name: str, folder: Path) -> Path:
    """Where a file that is included lies: relative paths start from the folder of the file that includes it."""
    return folder / Path(name).expanduser()


def digest(file: Path, size: int = 16, seen: frozenset[Path] = frozenset()) -> str:
    """Hash of a file, and of all that it includes."""
    content = file.read_bytes()
    total = hashlib.blake2b(content, digest_size=size)
    for inner in _inner(content.decode(errors="replace"), file):
        if inner not in seen:
            total.update(digest(inner, size, seen | {file.resolve()}).encode())
    return total.hexdigest()
