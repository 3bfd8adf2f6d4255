"""D-NAT on networks and images, ``examples/dnat-*.yaml`` (A2.5, A2.6): one short seed of ResNet20, or each in full."""

from __future__ import annotations

from benchmarks.seeds import example

MINE = "D-NAT, ranges suited, distilled"
SHORT = ("training.steps=100", "test.chips=3")
SEEDS = (0, 1, 2)


def run() -> str:
    """A short setting of ResNet20, one seed: minutes."""
    return example("dnat-resnet20", MINE, (0,), SHORT)


def resnet20() -> str:
    """Three seeds, twenty minutes of one core each, kept in ``out/bench`` as they end; so are the others'."""
    return example("dnat-resnet20", MINE, SEEDS)


def vgg8() -> str:
    """Three seeds, a quarter of an hour of one core each."""
    return example("dnat-vgg8", MINE, SEEDS)


def vgg16() -> str:
    """One seed, twenty minutes of one core."""
    return example("dnat-vgg16", MINE, (0,))
