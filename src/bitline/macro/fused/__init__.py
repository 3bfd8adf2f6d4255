"""The fused plan: digits, row groups, converters and their sums in one kernel, partial sums never in memory.

``refuses`` says what it leaves to the reference plan; ``run`` gives bit for bit what that plan gives. On the CPU the
kernel is ``kernel.cpp`` with ``kernel/``, built when bitline is installed.
"""

from bitline.macro.fused.lower import After
from bitline.macro.fused.native import missing as slow
from bitline.macro.fused.passing import passed
from bitline.macro.fused.plan import plain, refuses, refuses_cuda, run
from bitline.macro.fused.prepared import Prepared
from bitline.macro.fused.words import Quantised, Words, words_of

__all__ = [
    "After",
    "Prepared",
    "Quantised",
    "Words",
    "passed",
    "plain",
    "refuses",
    "refuses_cuda",
    "run",
    "slow",
    "words_of",
]
