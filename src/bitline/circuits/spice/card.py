"""Model cards, and other files that a netlist reads: where they lie, and what is in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from pydantic import Field, model_validator

from bitline.configuration import Frozen

HERE = Path(str(files("bitline.circuits.spice")))
CARD = "\x00card {}\x00"  # stands for a file's path, so that a deck's text is the same wherever the file lies
_INCLUDE = re.compile(
    r"^(?P<word>[ \t]*\.(?P<kind>inc|lib)\w*[ \t]+)"
    r"(?P<quote>[\"']?)(?P<name>(?<=[\"'])[^\"'\n\x00]+|[^\s\"'\x00]+)(?P=quote)(?P<rest>[^\n]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_MODEL = re.compile(r"^[ \t]*\.model[ \t]+(\S+)[ \t]+(nmos|pmos)\b", re.IGNORECASE | re.MULTILINE)
_COMMENT = re.compile(r"[;$]|//")


class Card(Frozen):
    """Model cards: files that are included, and what the models in them are called.

    ``{corner}`` in a path is the corner's name in ``corners``. A card without ``corners`` has `.lib` sections named as
    the corners are.
    """

    files: tuple[str, ...] = Field(min_length=1, description="paths, relative ones to the circuit's own file")
    corners: dict[str, str] | None = Field(default=None, description="what each corner is called in the paths")
    nmos: str = Field(description="name of the n-channel model")
    pmos: str = Field(description="name of the p-channel model")

    @staticmethod
    def of(files: Sequence[str], corners: str | None = None, nmos: str | None = None, pmos: str | None = None) -> Card:
        """A card in these files, relative paths from the working folder; ``corners`` in words: ``tt=nom,ff=ff``.

        Absent: corners are the `.lib` sections, or where a card has none there is tt alone; a model is the only one of
        its type. Raises ValueError where that does not say which.
        """
        called = _called(corners) if corners is not None else None
        if called is None and (several := [file for file in files if "{corner}" in file]):
            raise ValueError(f"{several[0]} names no corner: say what each is called there, such as tt=nom,ff=ff,ss=ss")
        first = next(iter(called)) if called else "tt"
        card = Card(files=tuple(str(Path(file).absolute()) for file in files), corners=called, nmos="", pmos="")
        paths = card.model_copy(update={"corners": called or {first: first}}).paths(first, Path())
        if called is None and not any(sections(path) for path in paths):
            called = {first: first}
        models = {"nmos": nmos or _only(paths, "nmos"), "pmos": pmos or _only(paths, "pmos")}
        return Card(files=card.files, corners=called, **models)

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


def sections(file: Path) -> list[str]:
    """Names of the `.lib` sections of a card, and of what it includes."""
    lines = (line for text in _texts(file) for line in _INCLUDE.finditer(text) if _begins(line))
    return list(dict.fromkeys(line["name"] for line in lines))


def _only(files: Sequence[Path], kind: str) -> str:
    """The name of the only model of a kind in a card."""
    texts = (text for file in files for text in _texts(file))
    there = dict.fromkeys(found[1] for text in texts for found in _MODEL.finditer(text) if found[2].lower() == kind)
    if len(there) != 1:
        raise ValueError(f"{kind}: the models of this type in {files[0]} are {', '.join(there) or 'none'}: name one")
    return next(iter(there))


def _called(corners: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in corners.split(",")]
    if not all(corner.strip() and name.strip() for corner, _, name in pairs):
        raise ValueError(f"corners {corners!r}: expected what each is called, such as tt=nom,ff=ff,ss=ss")
    return {corner.strip(): name.strip() for corner, _, name in pairs}


def _texts(file: Path, seen: frozenset[Path] = frozenset()) -> Iterator[str]:
    """The text of a file, and of all that it includes."""
    text = file.read_text(encoding="utf-8", errors="replace")
    yield text
    for inner in _inner(text, file):
        if inner not in seen:
            yield from _texts(inner, seen | {file.resolve()})


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
