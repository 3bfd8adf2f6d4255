"""Processes that train one network together, as torchrun starts them.

A batch is that of the whole run: each rank takes its share of every one, and what all found is added up once a step,
whatever a method does in between. The network is not wrapped, and of its state only weights, what a checkpoint holds
and batch norm's statistics are ever sent: the die a rank trains on is its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitline.methods.protocol import Batch


@dataclass(frozen=True)
class Ranks:
    """This process among ``count`` that train together; one alone by default, which sends nothing."""

    rank: int = 0
    count: int = 1
    device: torch.device | None = None

    @staticmethod
    def here(device: torch.device) -> Ranks:
        """This process, as ``torch.distributed`` knows it; raises RuntimeError where torchrun's are not joined yet."""
        if distributed.is_available() and distributed.is_initialized():
            return Ranks(distributed.get_rank(), distributed.get_world_size(), device)
        if (count := started()) > 1:
            raise RuntimeError(
                f"torchrun started {count} processes that are not joined: call "
                "torch.distributed.init_process_group() before bitline.train, as each would train a network of its own"
            )
        return Ranks()

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """This rank's part of a batch: samples that follow one another, none where there are fewer than ranks."""
        start, end = (len(batch[2]) * rank // self.count for rank in (self.rank, self.rank + 1))
        x, y, index = (part[start:end] for part in batch)
        return x, y, index

    def begin(self, model: nn.Module) -> None:
        """Give every rank the weights and buffers of the first."""
        if self.count > 1:
            for value in model.state_dict().values():
                sent = value.detach().clone(memory_format=torch.contiguous_format)
                sent = sent.to(torch.uint8) if sent.dtype == torch.bool else sent
                distributed.broadcast(sent, 0)
                value.copy_(sent)

    def reduce(self, model: nn.Module) -> None:
        """Add up the gradients of all ranks, and average the running statistics of batch norms."""
        if self.count == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        found = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        self._add([found])
        for parameter, some in zip(parameters, found.tolist(), strict=True):
            if some and parameter.grad is None:  # no sample of this rank reached it
                parameter.grad = torch.zeros_like(parameter)
        self._add([p.grad for p in parameters if p.grad is not None])
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
        running = [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]
        self._add(running)
        for statistic in running:
            statistic /= self.count

    def total(self, number: float) -> float:
        """The sum over ranks; NaN where one of them is not finite."""
        if self.count == 1:
            return number
        value = torch.tensor([number], dtype=torch.float64, device=self.device)
        self._add([value])
        return float(value)

    def any(self, flag: bool) -> bool:
        """Whether it is so on some rank."""
        return self.total(float(flag)) > 0

    def wait(self) -> None:
        """Until every rank is here."""
        self.total(0.0)

    @torch.no_grad()
    def _add(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their sums over ranks, in one message a type."""
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            message = torch.cat([tensor.reshape(-1) for tensor in alike])
            distributed.all_reduce(message)
            for tensor, part in zip(alike, message.split([t.numel() for t in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))


def started() -> int:
    """How many processes torchrun started with this one among them; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1


@contextmanager
def joined() -> Iterator[int]:
    """Join the processes that torchrun started, each with a GPU of its own where there are; yields the own rank.

    Those joined already, or a process alone, are left as they are: torchrun's can be joined once only.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield distributed.get_rank()
        return
    if started() == 1:
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group()
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()
