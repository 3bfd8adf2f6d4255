"""Fronts, and ways along them: which of many are not beaten, and the greedy path by loss per joule saved."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]
"""(cost, harm): less is better of both."""


def front(points: Sequence[Point]) -> list[int]:
    """Places of the points that no other one beats, cheapest first; of equal ones the first alone."""
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (*points[i], i)):
        if not found or points[i][1] < points[found[-1]][1]:
            found.append(i)
    return found


def beats(a: Point, b: Point) -> bool:
    """Whether ``a`` is nowhere worse than ``b``, and better somewhere."""
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def greedy(layers: Sequence[Sequence[Point]]) -> list[tuple[int, ...]]:
    """Steps from the least harm of every layer to its least cost: each adds the least harm for what it saves.

    ``layers``: points of each, cheapest first, none beaten. Returned are places in them, a tuple a step: of sums of
    costs and harms the convex hull.
    """
    here = [len(points) - 1 for points in layers]
    path = [tuple(here)]
    while any(here):
        steps = []
        for layer, (points, at) in enumerate(zip(layers, here, strict=True)):
            for to in range(at):
                saved = points[at][0] - points[to][0]
                steps.append(((points[to][1] - points[at][1]) / saved, -saved, layer, to))
        _, _, layer, to = min(steps)
        here[layer] = to
        path.append(tuple(here))
    return path


def spread(count: int, most: int) -> list[int]:
    """``most`` places among ``count`` or fewer, evenly spread, both ends among them."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count // 2]
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
