"""The fused kernel's library: that it loads where it was built, and the one line said where it does not."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import pytest

from bitline.macro.fused import native


@pytest.fixture
def kernel() -> ctypes.CDLL:
    """The kernel; the test is skipped where it was not built, and fails in CI where it could have been."""
    reason = native.missing()
    if reason and "CI" in os.environ and shutil.which("g++"):
        pytest.fail(f"{reason} (g++ is here)")
    if reason:
        pytest.skip(reason)
    library = native.load()
    assert library is not None
    return library


def reason() -> str:
    """Why there is no kernel; every way to ask agrees."""
    text = native.missing()
    assert text is not None
    assert "\n" not in text
    assert text.startswith("the fused kernel ")
    assert text.endswith("reinstall bitline")
    assert native.load() is None
    with pytest.raises(RuntimeError) as raised:
        native.cpu()
    assert str(raised.value) == text
    return text


def test_the_kernel_loads_once_and_names_its_instructions(kernel: ctypes.CDLL) -> None:
    assert native.load() is kernel
    assert kernel.bitline_abi() == native.ABI
    assert native.cpu()


def test_a_kernel_that_was_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    assert "was not built" in reason()
    assert "install g++" in reason()


@pytest.mark.parametrize("name", native.NAMES)
@pytest.mark.parametrize("content", [b"", b"garbage\n" * 100], ids=["empty", "garbage"])
def test_a_file_that_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    assert "cannot be loaded" in reason()
    assert name in reason()


def test_a_kernel_with_another_interface(monkeypatch: pytest.MonkeyPatch, kernel: ctypes.CDLL) -> None:
    monkeypatch.setattr(native, "ABI", native.ABI + 1)
    assert f"built from other sources (interface {native.ABI - 1}, not {native.ABI})" in reason()


def test_a_library_that_is_no_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = pytest.importorskip("numpy.random._mt19937").__file__
    shutil.copy(other, tmp_path / native.NAMES[0])
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    assert "built from other sources (interface unknown" in reason()
