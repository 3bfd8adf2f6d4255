"""The fused plan: digits, row groups, converters and their sums in one kernel, partial sums never in memory.

``refuses`` says what it leaves to the reference plan; ``run`` gives bit for bit what that plan gives. On the CPU the
kernel is ``kernel.cpp``, built when bitline is installed.
"""

from bitline.macro.fused.plan import refuses, run

__all__ = ["refuses", "run"]
