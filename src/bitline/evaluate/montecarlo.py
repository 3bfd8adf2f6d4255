"""Monte Carlo over chips: the same chips, images and reads for every network that is compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitline import draws
from bitline.evaluate.workers import Pool
from bitline.macro import Chip, ideal
from bitline.nn import kept, layers, on_chip, silicon, streamlined, use

BLOCK = 64  # samples a network sees at once, whatever the loader's batch: sums then round alike

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Trial:
    """One chip's answers: 0 or 1 for each image, (images,) uint8."""

    chip: int
    right: Tensor


def testing_chip(seed: int, number: int) -> Chip:
    """A die of the test lot: never one that was trained on."""
    return Chip(draws.key("test lot", seed), number)


def blocks(batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
    """(x, y, index, how many are real) in blocks of ``BLOCK``; the last is filled up with its last sample."""
    held: list[Batch] = []
    count = 0

    def cut(size: int) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal held, count
        whole = held[0] if len(held) == 1 else tuple(torch.cat(parts) for parts in zip(*held, strict=True))
        held = [(whole[0][size:], whole[1][size:], whole[2][size:])]
        count -= size
        return whole[0][:size], whole[1][:size], whole[2][:size]

    for batch in batches:
        held.append((batch[0], batch[1], batch[2]))
        count += len(batch[1])
        while count >= BLOCK:
            yield *cut(BLOCK), BLOCK
    if count:
        x, y, index = cut(count)
        repeat = [BLOCK - len(y), *[1] * (x.dim() - 1)]
        filled = torch.cat([x, x[-1:].repeat(repeat)]), torch.cat([y, y[-1:].repeat(repeat[0])])
        yield *filled, torch.cat([index, index[-1:].repeat(repeat[0])]), len(y)


@torch.no_grad()
def answers(model: nn.Module, batches: Iterable[Batch], read: int = 0) -> Tensor:
    """Whether each image is classified right on the chip the model sits on now, (images,) uint8.

    The model computes in eval mode. Raises ValueError naming the first sample whose input, or whose output, is NaN.
    """
    shared = silicon(model) if layers(model) else None
    device = next(model.parameters()).device
    right = []
    with kept(model):
        model.eval()
        network = streamlined(model)
        for x, y, index, real in blocks(batches):
            _refuse_nan(x, index, "input")
            if shared is not None:
                shared.begin(index.to(device), read)
            y_hat = network(x.to(device)).cpu()
            _refuse_nan(y_hat, index, "output, from weights or an overflow,")
            right.append((y_hat.argmax(1) == y)[:real].to(torch.uint8))
    if not right:
        raise ValueError("nothing to evaluate: the data set is empty")
    return torch.cat(right)


def without_errors(model: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """``answers`` of a converted model on its macros made ideal; it computes with its designs afterwards."""
    use(model, ideal)
    try:
        return answers(model, batches)
    finally:
        use(model)


def _refuse_nan(value: Tensor, index: Tensor, what: str) -> None:
    if value.is_floating_point() and not bool(value.isfinite().all()):
        bad = int(index[(~value.isfinite()).flatten(1).any(1).nonzero()[0, 0]])
        raise ValueError(f"sample {bad}: its {what} holds NaN or infinity")


def over_chips(
    model: nn.Module,
    batches: Callable[[], Iterable[Batch]],
    chips: int,
    seed: int = 0,
    prepare: Callable[[nn.Module, int], None] | None = None,
    known: Collection[int] = (),
    pool: Pool | None = None,
) -> Iterator[Trial]:
    """Chip after chip, results as they come; memory is that of one chip.

    ``prepare(model, chip)``: a step made on each chip before it is tested (recalibration), which may not depend on
    chips before; ``known``: chips to leave out. A ``pool`` of workers asks several at once: same results, in any order.
    The model is left in the mode, and on the die, it came with.
    """
    if chips < 1:
        raise ValueError(f"chips = {chips}: at least one is needed")
    numbers = [number for number in range(chips) if number not in known]
    with kept(model):
        if pool is None:
            for number in numbers:
                yield trial(number, model, batches(), (seed, prepare))
        else:
            on_chip(model, testing_chip(seed, 0))  # so that nothing programmed is sent
            shared = pool.share(model), pool.once(batches), pool.share((seed, prepare))
            yield from (found for _, found in pool.each(trial, numbers, *shared))


def trial(
    number: int, model: nn.Module, batches: Iterable[Batch], more: tuple[int, Callable[[nn.Module, int], None] | None]
) -> Trial:
    """One chip's answers; ``more``: seed and the step before the test, as of ``over_chips``."""
    seed, prepare = more
    silicon(model).seed = seed
    on_chip(model, testing_chip(seed, number))
    if prepare is not None:
        prepare(model, number)
    return Trial(number, answers(model, batches))
