"""S0's comparison on ResNet20 and CIFAR-10, ``examples/s0-resnet20.yaml``: one short seed, or three as they stand."""

from __future__ import annotations

from benchmarks.seeds import example

SHORT = ("training.steps=100", "test.chips=3")


def run() -> str:
    """A short setting, one seed: minutes."""
    return example("s0-resnet20", "error-aware, distilled", (0,), SHORT)


def seeds() -> str:
    """The example as it is, three seeds: an hour or two on one core each, kept in ``out/bench`` as they end."""
    return example("s0-resnet20", "error-aware, distilled", (0, 1, 2))
