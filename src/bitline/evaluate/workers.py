"""Trials shared out over Ray workers, on this machine or a cluster; what they find is one process's, to the byte."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from pydantic import Field

from bitline.configuration import Frozen

Item = TypeVar("Item")
Found = TypeVar("Found")
RETRIES = 3  # of a trial whose worker died


class Workers(Frozen):
    """How trials are shared out: over local Ray workers, or those of a cluster.

    Sums of large digital layers round by the number of threads, so a worker has as many as this process, unless told:
    with more than a few workers on one machine set OMP_NUM_THREADS=1 for all of it. Where there are GPUs, they are
    shared among the workers.
    """

    count: int | None = Field(default=None, ge=1, description="absent: one a CPU")
    address: str | None = Field(
        default=None, description="of a Ray cluster ('auto', 'ray://host:10001'); absent: local"
    )
    threads: int | None = Field(default=None, ge=1, description="of each worker; absent: as many as this process has")

    @contextmanager
    def opened(self) -> Iterator[Pool]:
        """The pool of workers; a Ray that runs already is used, and left running.

        Raises ImportError where Ray is not installed, ConnectionError where there is no cluster at the address.
        """
        ray = _ray()
        mine = not ray.is_initialized()
        if mine:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
            here = {"num_cpus": self.count, "include_dashboard": False} if self.address is None else {}
            ray.init(address=self.address or "local", log_to_driver=False, logging_level="error", **here)
        try:
            yield Pool(ray, self)
        finally:
            if mine:
                ray.shutdown()


def opened(workers: Workers | None) -> AbstractContextManager[Pool | None]:
    """The pool of ``workers``; without any, None: this process does it all."""
    return nullcontext() if workers is None else workers.opened()


class Pool:
    """Workers that wait for something to do. What they share is sent once, and kept by each as long as it is used."""

    def __init__(self, ray: Any, config: Workers) -> None:
        there = ray.cluster_resources()
        count = config.count or max(1, int(there.get("CPU", 1)))
        gpus = math.floor(1e4 * min(1.0, there.get("GPU", 0) / count)) / 1e4
        worker = ray.remote(_Worker).options(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES)
        self._ray = ray
        self._workers = [worker.remote(config.threads or torch.get_num_threads()) for _ in range(count)]
        self._sent: dict[Any, Any] = {}

    def share(self, value: Any) -> Any:
        """A value every worker may ask for; the result stands for it in ``each``."""
        return self._ray.put(value)

    def once(self, source: Callable[[], Iterable[Any]]) -> Any:
        """``share`` for all that a source gives, the same whenever the same source is given."""
        if source not in self._sent:
            self._sent[source] = self.share(list(source()))
        return self._sent[source]

    def each(self, function: Callable[..., Found], items: Sequence[Item], *shared: Any) -> Iterator[tuple[Item, Found]]:
        """``(item, function(item, *shared))`` as they come, in any order.

        An item whose worker died is done again by the worker that takes its place; RuntimeError where it dies of the
        same item again and again. What the function raises is raised here.
        """
        left = list(reversed(items))
        running: dict[Any, tuple[Any, Item | None]] = {w.ready.remote(): (w, None) for w in self._workers}
        busy = 0
        while left or busy:
            (done,), _ = self._ray.wait(list(running), num_returns=1)
            worker, item = running.pop(done)
            found = self._result(done, item)
            if left:
                following = left.pop()
                running[worker.work.remote(function, following, list(shared))] = (worker, following)
                busy += 1
            if item is not None:
                busy -= 1
                yield item, found

    def _result(self, done: Any, item: object) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(done)
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayActorError as error:
            raise RuntimeError(f"{item}: its worker died {1 + RETRIES} times: {error}") from None


class _Worker:
    """What runs in a process of its own."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.kept: dict[Any, Any] = {}

    def ready(self) -> None:
        """It is."""

    def work(self, function: Callable[..., Any], item: object, shared: list[Any]) -> Any:
        """The function of an item and what is shared, which is unpacked once."""
        ray = _ray()
        self.kept = {ref: self.kept[ref] if ref in self.kept else ray.get(ref) for ref in shared}
        return function(item, *self.kept.values())


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ImportError("trials are shared out by Ray, which is not installed: pip install 'bitline[ray]'") from None
