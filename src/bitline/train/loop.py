"""The one training loop, for every method."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bitline.methods.machine import ErrorAware
from bitline.methods.plain import Plain
from bitline.methods.protocol import Batch, Batches, Criterion, Method, Progress
from bitline.nn import batch_norms, layers
from bitline.train import checkpoint
from bitline.train.batches import Stream, kept_random_state, seed_all
from bitline.train.config import TrainConfig
from bitline.train.log import Log, Record, logger, prepare, progress_bar
from bitline.train.ranks import Ranks

FREE = {"log_every", "checkpoint_every"}  # what a resumed run may change


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the weights are those before the step."""


@dataclass(frozen=True)
class History:
    """What a run logged: one record an interval, one a validation. ``resumed`` is the step it went on from."""

    steps: int
    epochs: int
    records: list[Record]
    resumed: int | None = None

    def series(self, name: str) -> list[tuple[int, float]]:
        """``(step, value)`` of every record that has ``name``."""
        return [(r["step"], r[name]) for r in self.records if r.get(name) is not None]


@dataclass
class _Place:
    """Where a run is; all of it goes into the checkpoint."""

    total: int  # optimiser steps of the whole run, which the schedule is laid over
    step: int = 0  # done
    epoch: int = 0
    position: int = 0  # batches used in this epoch
    loss: float = 0.0  # sum since the last record
    losses: int = 0
    lr: float = 0.0  # of the last step
    gradient: float | None = None  # its norm at the last step, where it is clipped
    done: bool = False


def train(
    model: nn.Module,
    batches: Batches | Iterable[Any],
    *,
    config: TrainConfig,
    method: Method | None = None,
    out: Path | str | None = None,
    resume: bool = True,
    loss: Criterion = cross_entropy,
    progress: bool = True,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> History:
    """Train the model in place.

    ``batches(epoch)`` gives the epoch's ``(x, y, index)``, the same ones each time; a loader that gives ``(x, y)`` will
    do. ``method`` is `ErrorAware` for a network on a macro and `Plain` for any other, unless given. With ``out``,
    checkpoints, ``log.jsonl`` and TensorBoard events are written there and, with ``resume``, a run that was stopped
    goes on and ends as if it had not been: same weights and same records, bit for bit, on the same machine (CUDA
    kernels that are not deterministic excepted); one that is finished is loaded and nothing is measured for it. Without
    ``resume`` the folder's earlier run is removed. ``validate(model)`` runs in eval mode after each epoch; its numbers
    are logged as ``validate/<name>``. Modules with a ``penalty()`` add it to the loss, those with a ``constrain()`` are
    called after each step. Interrupting (Ctrl-C) finishes the step, saves, and raises KeyboardInterrupt.

    Under torchrun, joined by ``torch.distributed.init_process_group()``, each rank trains on its share of every batch,
    which all of them are given whole, and on a chip of its own (``config.one_chip``: on the same); the first one
    writes. A run goes on with as many ranks as it was stopped with.

    Raises OSError when ``out`` cannot be written, CheckpointError when its checkpoint is damaged or of another model,
    macro or configuration, NonFiniteLoss naming the step and the samples.
    """
    if method is None:
        method = ErrorAware() if layers(model) else Plain()
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # gradients are added up once a step, whatever the method calls
    folder = Path(out) if out is not None else None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    ranks = Ranks.here(device)
    if config.amp == "fp16" and device.type != "cuda":
        raise ValueError(f"amp='fp16' needs a CUDA device, the model is on {device}; use 'bf16'")
    criterion = _criterion(loss, config)
    if folder is not None:
        prepare(folder, ranks.rank)
    ranks.begin(model)
    with kept_random_state():
        stream = Stream(batches, config.seed)
        seed_all(config.seed, "begin")
        method.begin(model, stream)
        try:
            optimizer = config.build_optimizer(checkpoint.unwrapped(model))
            scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
            run = _Run(model, stream, config, method, criterion, folder, validate, device, ranks, optimizer, scaler)
            return run(resume, progress)
        finally:
            method.end(model)
            for module in batch_norms(model):
                module.train(model.training)


def _criterion(loss: Criterion, config: TrainConfig) -> Criterion:
    if loss is cross_entropy:
        return lambda output, y: cross_entropy(output.float(), y, label_smoothing=config.label_smoothing)
    if config.label_smoothing:
        raise ValueError(f"label_smoothing={config.label_smoothing} acts on cross_entropy, not on the loss given")
    return loss


@dataclass
class _Run:
    model: nn.Module
    stream: Stream
    config: TrainConfig
    method: Method
    criterion: Criterion
    folder: Path | None
    validate: Callable[[nn.Module], dict[str, float]] | None
    device: torch.device
    ranks: Ranks
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def __call__(self, resume: bool, progress: bool) -> History:
        config = self.config
        seen = self._seen(resume)
        if seen is None or not seen["done"]:
            self.method.measure(self.model, self.stream)
        if seen is not None:
            self._load(seen)
            at = _Place(**{field.name: seen[field.name] for field in fields(_Place)})
        elif config.steps is not None:
            at = _Place(total=config.steps)
        else:
            at = _Place(total=(config.epochs or 0) * math.ceil(self.stream.length() / config.accumulate))
        between = True  # whether the model is between two steps, so that a checkpoint of it is consistent
        log = Log(self.folder, seen["records"] if seen else 0, at.step, self.ranks.first)
        shown = progress and self.ranks.first
        with log, _deferred_interrupt() as interrupted, progress_bar(at.total, shown) as show:
            try:
                while not at.done:
                    self.model.train()
                    for group in self.stream.groups(at.epoch, config.accumulate, skip=at.position):
                        if at.step == config.steps:
                            break
                        between = False
                        at.lr = config.lr * config.schedule.factor(at.step, at.total)
                        value, at.gradient = self._step(group, at)
                        at.step, at.position = at.step + 1, at.position + len(group)
                        at.loss, at.losses = at.loss + value, at.losses + 1
                        between = True
                        if at.step % config.log_every == 0:
                            self._record(log, at)
                        show(at.step, value, at.lr)
                        if at.step % config.checkpoint_every == 0:
                            self._save(log, at)
                        if self.ranks.any(interrupted()):
                            raise KeyboardInterrupt
                    if at.losses:
                        self._record(log, at)
                    self._validate(log, at)
                    at.epoch, at.position = at.epoch + 1, 0
                    at.done = at.epoch == config.epochs or at.step == config.steps
                    self._save(log, at)
            except KeyboardInterrupt:
                if between:
                    self._save(log, at)
                raise
        resumed = seen["step"] if seen else None
        return History(steps=at.step, epochs=at.epoch, records=log.records, resumed=resumed)

    def _step(self, group: list[Batch], at: _Place) -> tuple[float, float | None]:
        """One optimiser step; its loss and the norm of its gradient where that is clipped."""
        config, model, ranks = self.config, self.model, self.ranks
        seed_all(config.seed, "step", at.step, *([ranks.rank] if ranks.rank else []))
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = at.lr
        if config.keeps_norms(at.step, at.total):
            for module in batch_norms(model):
                module.eval()
        alone = Progress(at.step, at.total)
        self.method.before_step(model, alone if config.one_chip else replace(alone, rank=ranks.rank, ranks=ranks.count))
        self.optimizer.zero_grad(set_to_none=True)
        samples = sum(len(index) for _, _, index in group)
        loss, norm, bad = 0.0, None, None
        for batch in group:
            x, y, index = (t.to(self.device, non_blocking=True) for t in ranks.share(batch))
            if not len(index):
                continue
            share = len(index) / samples
            dtype = torch.float16 if config.amp == "fp16" else torch.bfloat16
            with torch.autocast(self.device.type, dtype, enabled=config.amp is not None):
                value = self.method.loss(model, x, y, index, self.criterion)
            value = value + _penalty(model)
            number = value.item()
            if not math.isfinite(number):
                bad = bad or _non_finite(number, at, index)
            self.scaler.scale(value * share).backward()
            loss += number * share
        if not math.isfinite(loss := ranks.total(loss)):
            raise NonFiniteLoss(bad or f"the loss is {loss} at step {at.step} (epoch {at.epoch}), that of another rank")
        ranks.reduce(model)
        if config.clip is not None:
            self.scaler.unscale_(self.optimizer)
            norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        constrain(model)
        return loss, norm

    def _record(self, log: Log, at: _Place) -> None:
        record: Record = {"step": at.step, "epoch": at.epoch, "loss": at.loss / at.losses, "lr": at.lr}
        if at.gradient is not None:
            record["gradient"] = at.gradient
        log(record)
        at.loss, at.losses = 0.0, 0

    def _validate(self, log: Log, at: _Place) -> None:
        if self.validate is None:
            return
        seed_all(self.config.seed, "validate", at.epoch)
        self.model.eval()
        with torch.no_grad():
            numbers = self.validate(self.model)
        log({"step": at.step, "epoch": at.epoch} | {f"validate/{k}": float(v) for k, v in numbers.items()})

    def _save(self, log: Log, at: _Place) -> None:
        if self.folder is None or not self.ranks.first:
            return
        log.sync()
        more = {"records": len(log.records), "scaler": self.scaler.state_dict(), "ranks": self.ranks.count}
        record = asdict(at) | self._identity() | more
        checkpoint.save(self.folder, self.model, self.optimizer, record)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint of this run has in common with it, model and macro apart."""
        settings = self.method.model_dump(mode="json") if isinstance(self.method, BaseModel) else {}
        method = {"class": type(self.method).__name__, **settings}
        return {"config": self.config.model_dump(mode="json"), "method": method}

    def _seen(self, resume: bool) -> dict[str, Any] | None:
        """The record of this run's checkpoint; None where there is none to go on from."""
        if self.folder is None:
            return None
        if not resume and self.ranks.first:
            checkpoint.clear(self.folder)
        self.ranks.wait()
        seen = checkpoint.read(self.folder)
        if seen is None:
            return None
        for part, now in self._identity().items():
            before = seen.get(part, {})
            unlike = [k for k in sorted(now.keys() | before.keys()) if k not in FREE and now.get(k) != before.get(k)]
            if unlike:
                told = "; ".join(f"{part}.{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in unlike)
                raise checkpoint.CheckpointError(
                    f"{self.folder} holds another run: {told}. Choose another folder, or resume=False to start over"
                )
        before, now = seen.get("ranks", 1), self.ranks.count
        if before != now and not seen["done"]:
            raise checkpoint.CheckpointError(
                f"{self.folder} holds a run by {before} rank{'s' * (before > 1)}, and this is one by {now}: chips and "
                f"sums would be others. Go on with torchrun --nproc-per-node {before}, or resume=False to start over"
            )
        return seen

    def _load(self, seen: dict[str, Any]) -> None:
        assert self.folder is not None
        checkpoint.load(self.folder, self.model, self.optimizer)
        self.ranks.wait()  # nobody writes before all have read
        self.scaler.load_state_dict(seen["scaler"])
        logger.info("going on from step %d in %s", seen["step"], self.folder)


def _penalty(model: nn.Module) -> Tensor | float:
    """The sum of what modules with a ``penalty()`` add to the loss."""
    total: Tensor | float = 0.0
    for module in model.modules():
        if callable(penalty := getattr(module, "penalty", None)):
            total = total + penalty()
    return total


def constrain(model: nn.Module) -> None:
    """Let modules with a ``constrain()`` bring their parameters back to where they make sense."""
    for module in model.modules():
        if callable(constrain := getattr(module, "constrain", None)):
            constrain()


def _non_finite(number: float, at: _Place, index: Tensor) -> str:
    samples = index.tolist()
    some = ", ".join(map(str, samples[:16])) + f" and {len(samples) - 16} more" * (len(samples) > 16)
    return (
        f"the loss is {number} at step {at.step} (epoch {at.epoch}), on samples {some}; a smaller lr, a clipped "
        "gradient (clip) or the data of these samples may be the way out"
    )


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, which waits for that to be asked; a second Ctrl-C does not wait."""
    asked = False

    def handler(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        logger.warning("finishing this step, then saving; Ctrl-C again stops at once")

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: asked
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
