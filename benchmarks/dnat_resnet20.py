"""D-NAT on ResNet20 and CIFAR-10, ``examples/dnat-resnet20.yaml`` (A2.5, A2.6): one short seed, or three in full."""

from __future__ import annotations

from benchmarks.seeds import example

SHORT = ("training.steps=100", "test.chips=3")


def run() -> str:
    """A short setting, one seed: minutes."""
    return example("dnat-resnet20", "D-NAT", (0,), SHORT)


def seeds() -> str:
    """The example as it is, three seeds: half an hour of one core each, kept in ``out/bench`` as they end."""
    return example("dnat-resnet20", "D-NAT", (0, 1, 2))
