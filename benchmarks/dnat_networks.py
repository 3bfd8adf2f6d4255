"""D-NAT on networks and images, ``examples/dnat-*.yaml`` (A2.5, A2.6): one short seed of ResNet20, or each in full."""

from __future__ import annotations

from benchmarks.seeds import example

MINE = "D-NAT, ranges suited, distilled"
SHORT = {
    "dnat-resnet20": ("training.steps=100", "test.chips=3", "data.test_images=500"),
    "dnat-vgg8": ("training.steps=20", "test.chips=3", "data.test_images=60"),
    "dnat-vgg16": ("training.steps=20", "test.chips=3", "data.test_images=60"),
}
SEEDS = (0, 1, 2)


def run() -> str:
    """A short setting of each, one seed: minutes."""
    return "\n\n".join(example(name, MINE, (0,), changes) for name, changes in SHORT.items())


def resnet20() -> str:
    """Three seeds, an hour of one core each, kept in ``out/bench`` as they end; so are the others'."""
    return example("dnat-resnet20", MINE, SEEDS)


def vgg8() -> str:
    """Three seeds, half an hour of one core each."""
    return example("dnat-vgg8", MINE, SEEDS)


def vgg16() -> str:
    """One seed, twenty minutes of one core."""
    return example("dnat-vgg16", MINE, (0,))
