"""Models that are kept in a file of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

import bitline.evaluate.hardened
import bitline.place
import bitline.search.found  # noqa: F401
from bitline.files import Saved, write_atomic


class Walk(Saved):
    FILE = "walk.json"
    title: str = ""
    yield_: float = Field(alias="yield")


def test_what_is_saved_is_loaded_by_the_names_it_was_written_with(tmp_path: Path) -> None:
    walk, file = Walk(title="σ", **{"yield": 0.5}), tmp_path / "new" / "folder" / "walk.json"
    walk.save(file)
    assert file.read_bytes() == '{\n  "title": "σ",\n  "yield": 0.5\n}\n'.encode()
    assert Walk.load(file) == Walk.load(str(file)) == walk
    assert [path.name for path in file.parent.iterdir()] == ["walk.json"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"yield": "much"}', r"walk\.json: yield: .*valid number"),
        ('{"yield": 0.5, "share": 1}', r"walk\.json: share: Extra inputs"),
        ('{"yield": 0.5', r"walk\.json: the file: Invalid JSON"),
    ],
)
def test_a_file_that_is_none_is_told(text: str, told: str, tmp_path: Path) -> None:
    write_atomic(tmp_path / "walk.json", text)
    with pytest.raises(ValueError, match=rf"{told}.*; expected a walk\.json written by Bitline"):
        Walk.load(tmp_path / "walk.json")


def test_all_that_bitline_saves_names_its_file() -> None:
    names = [getattr(one, "FILE", None) for one in Saved.__subclasses__() if one.__module__.startswith("bitline.")]
    assert None not in names
    assert len(set(names)) == len(names) == 8
