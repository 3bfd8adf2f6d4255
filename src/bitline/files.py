"""Files that appear whole or not at all, models that are kept in one of their own, and short names for long texts."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import ValidationError

from bitline.configuration import Frozen

S = TypeVar("S", bound="Saved")


class Saved(Frozen):
    """A frozen model that is kept as JSON."""

    FILE: ClassVar[str]  # the name of such a file where Bitline gives it one

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, atomically."""
        write_atomic(Path(path), self.model_dump_json(indent=2, by_alias=True) + "\n")

    @classmethod
    def load(cls: type[S], path: str | os.PathLike[str]) -> S:
        """Read it back; raises ValueError naming the file and the first wrong field."""
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise ValueError(f"{path}: {place}: {first['msg']}; expected a {cls.FILE} written by Bitline") from None


def digest(text: str) -> str:
    """Sixteen letters and figures, in file names too, that tell a text from others."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` to a temporary file beside ``path`` and rename it: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
