"""The fused kernel's library: found, loaded and checked, once a process.

``kernel.cpp`` is compiled to ``_kernel*`` beside this module when bitline is installed, where there is a C++ compiler.
Its C interface has a number, ``ABI``: a library built from other sources is refused, not called.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

SMALL = 1 << 16  # elements
ABI = 6  # of bitline_abi() in kernel.cpp; a new number with every change of the interface
FOLDER = Path(__file__).parent
NAMES = tuple(f"_kernel{suffix}" for suffix in (*EXTENSION_SUFFIXES, ".dylib"))  # this Python's own build first


def load() -> ctypes.CDLL | None:
    """The kernel's library, or None where there is none: ``missing`` says why."""
    found = _open(FOLDER, ABI)
    return None if isinstance(found, str) else found


def missing() -> str | None:
    """Why there is no kernel, in one line, or None where there is one."""
    found = _open(FOLDER, ABI)
    return found if isinstance(found, str) else None


def cpu() -> str:
    """The instruction set the kernel uses on this machine. Raises RuntimeError where there is no kernel."""
    return str(kernel().bitline_cpu().decode())


def kernel() -> ctypes.CDLL:
    """The kernel's library. Raises RuntimeError where there is none."""
    found = _open(FOLDER, ABI)
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def threads(work: int) -> int:
    """Threads for so many elements: those of torch, one where a thread would cost more than it gains."""
    return 1 if work < SMALL else torch.get_num_threads()


@cache
def _open(folder: Path, abi: int) -> ctypes.CDLL | str:
    """The library in ``folder``, or why there is none."""
    file = next((folder / name for name in NAMES if (folder / name).exists()), None)
    if file is None:
        return (
            "the fused kernel was not built (no C++ compiler when bitline was installed, or it failed): "
            "install g++, or set CXX to another compiler, and reinstall bitline"
        )
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        return f"the fused kernel cannot be loaded ({' '.join(str(error).split())}): reinstall bitline"
    try:
        built = library.bitline_abi()
    except AttributeError:
        built = None
    if built != abi:
        return (
            f"the fused kernel {file} was built from other sources "
            f"(interface {built or 'unknown'}, not {abi}): reinstall bitline"
        )
    library.bitline_cpu.restype = ctypes.c_char_p
    library.bitline_pack.restype = ctypes.c_int64
    library.bitline_numbers.argtypes = (POINTER, WHOLE, REAL, POINTER, WHOLE)
    return library


POINTER, WHOLE, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Curve(ctypes.Structure):
    """As ``Curve`` in kernel/jobs.h."""

    _fields_ = (("value", POINTER), ("rise", POINTER), ("nodes", WHOLE), ("low", REAL), ("pitch", REAL))


class Job(ctypes.Structure):
    """As ``Job`` in kernel/jobs.h, which says what each is."""

    _fields_ = (
        ("words", POINTER),
        *((name, WHOLE) for name in ("word_bytes", "batch", "groups", "channels")),
        *((name, WHOLE * 3) for name in ("size", "kernel", "stride", "dilation", "out")),
        *((name, WHOLE) for name in ("reads", "passes", "conversions", "legs", "limbs", "outputs")),
        *((name, POINTER) for name in ("fields", "radix", "chunks", "firsts")),
        ("merged", WHOLE),
        *((name, POINTER) for name in ("cells", "start")),
        *((name, WHOLE) for name in ("image", "planes", "depth", "lines", "width", "strip")),
        *((name, WHOLE) for name in ("across", "down", "deep", "sample", "reach")),
        *((name, POINTER) for name in ("factor", "shift", "leg_gain", "leg_offset")),
        ("mean", Curve),
        ("noise", Curve),
        ("slope", POINTER),
        *((name, REAL) for name in ("unit", "cell_variance", "code_noise")),
        ("low_over_step", POINTER),
        *((name, WHOLE) for name in ("most", "digit_low")),
        *((name, POINTER) for name in ("edges", "which", "law")),
        *((name, WHOLE) for name in ("law_bits", "ideal_codes")),
        ("keys", POINTER),
        *((name, WHOLE) for name in ("noise_words", "group_words")),
        ("normals", POINTER),
        ("planar", WHOLE),
        *((name, POINTER) for name in ("y", "inside", "mean_slope", "step")),
        *((name, POINTER) for name in ("gain", "constant", "scale", "bias")),
        ("add", POINTER),
        ("relu", WHOLE),
        ("inside_weight", REAL),
        *((name, WHOLE) for name in ("what", "threads", "tall", "split", "clipped")),
    )


class Pack(ctypes.Structure):
    """As ``Pack`` in kernel/jobs.h, which says what each is."""

    _fields_ = (
        ("x", POINTER),
        *((name, WHOLE) for name in ("batch", "channels")),
        *((name, WHOLE * many) for name, many in (("size", 3), ("jump", 5), ("before", 3), ("after", 3))),
        *((name, REAL) for name in ("scale", "zero", "low", "high")),
        *((name, WHOLE) for name in ("grid", "above", "below", "sign", "left", "pad")),
        ("words", POINTER),
        *((name, WHOLE) for name in ("word_bytes", "threads")),
        *((name, POINTER) for name in ("grad", "grad_x", "sums")),
        ("rounded", WHOLE),
    )


class Pass(ctypes.Structure):
    """As ``Pass`` in kernel/jobs.h, which says what each is."""

    _fields_ = (
        *((name, POINTER) for name in ("grad", "share", "y", "scale", "passed", "sums")),
        *((name, WHOLE) for name in ("batch", "outputs", "positions", "threads")),
    )
