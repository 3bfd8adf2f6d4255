"""Memory for what the kernel writes: blocks are used again once nothing refers to them.

Fresh memory costs a page fault every 4 KiB, which is as dear as the conversions that fill it.
"""

from __future__ import annotations

import math
import threading
import weakref

import numpy as np
import torch
from torch import Tensor

MOST = 64 << 20  # bytes kept for later, at most
PAGE, LINE = 4096, 64

_free: dict[int, list[np.ndarray]] = {}
_lock = threading.Lock()
_kept = 0


def empty(*shape: int) -> Tensor:
    """A float32 tensor of any contents."""
    count = math.prod(shape)
    size = -(-4 * count // PAGE) * PAGE
    if size < 16 * PAGE:
        return torch.empty(shape)
    block = _take(size)
    view = block[: 4 * count].view(np.float32)
    weakref.finalize(view, _give, block).atexit = False
    return torch.from_numpy(view).view(shape)


def _take(size: int) -> np.ndarray:
    global _kept
    with _lock:
        blocks = _free.get(size)
        if blocks:
            _kept -= size
            return blocks.pop()
    block = np.empty(size + LINE, dtype=np.uint8)
    return block[-block.ctypes.data % LINE :][:size]


def _give(block: np.ndarray) -> None:
    global _kept
    with _lock:
        if _kept + block.nbytes <= MOST:
            _kept += block.nbytes
            _free.setdefault(block.nbytes, []).append(block)
