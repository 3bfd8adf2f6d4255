"""Checkpoints that cannot be half written, half read, or taken for another run's.

A folder holds ``step-<step>-<hash>.safetensors`` with all tensors by name (``model/…``, ``optimizer/<parameter>/…``)
and ``latest.json``, which says the rest and names that file with its size and BLAKE2 hash. The JSON is renamed into
place last, so it always names a complete file. ``previous.json`` is the one before: copy it over ``latest.json`` to go
back. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to something else."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` or data-parallel training wrapped."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    inner = getattr(model, "_orig_mod", None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, record: dict[str, Any]) -> None:
    """Write a checkpoint; ``record`` is JSON and has at least ``step``. The last two are kept."""
    model = unwrapped(model)
    tensors = _model_tensors(model)
    numbers: dict[str, dict[str, Any]] = {}
    for name, state in _optimizer_state(model, optimizer).items():
        numbers[name] = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
        tensors |= {f"optimizer/{name}/{key}": v for key, v in state.items() if isinstance(v, Tensor)}
    payload = safetensors.torch.save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})
    digest = _digest(payload)
    file = f"step-{record['step']:08d}-{digest[:8]}.safetensors"
    latest = folder / "latest.json"
    whole = {
        "format": FORMAT,
        **record,
        "file": file,
        "bytes": len(payload),
        "blake2b": digest,
        "model": _fingerprint(_shapes(_model_tensors(model))),
        "macro": _macro(model),
        "optimizer": numbers,
    }
    _write(folder / file, payload)
    if latest.exists() and _named(latest) != file:
        _write(folder / "previous.json", latest.read_bytes())
    _write(latest, json.dumps(whole, indent=1).encode())
    kept = {_named(folder / name) for name in ("latest.json", "previous.json") if (folder / name).exists()}
    for stale in [*folder.glob("step-*.safetensors"), *folder.glob("*.partial")]:
        if stale.name not in kept:
            stale.unlink()


def clear(folder: Path) -> None:
    """Remove the checkpoints in a folder, and nothing else."""
    for pattern in ("latest.json", "previous.json", "step-*.safetensors", "*.partial"):
        for file in folder.glob(pattern):
            file.unlink()


def read(folder: Path) -> dict[str, Any] | None:
    """The record of the latest checkpoint, None without one. Raises CheckpointError when it is damaged."""
    latest = folder / "latest.json"
    return _read_record(latest) if latest.exists() else None


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any] | None:
    """Load the latest checkpoint into the model and, where given, the optimiser; its record, or None without one.

    Raises CheckpointError naming the file when it is truncated, altered or of another format, and naming what differs
    when it belongs to another model or macro; the model is untouched then.
    """
    latest = folder / "latest.json"
    record = read(folder)
    if record is None:
        return None
    model = unwrapped(model)
    if record["macro"] != _macro(model):
        raise CheckpointError(
            f"{latest} belongs to another macro: fingerprint {record['macro']!r}, this model has {_macro(model)!r}"
        )
    tensors = _read_tensors(folder / record["file"], record)
    weights = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
    difference = _difference(_shapes(weights), _shapes(model.state_dict()))
    if difference:
        raise CheckpointError(f"{latest} belongs to another model: {difference}")
    if optimizer is not None:
        _restore_optimizer(latest, model, optimizer, tensors, record)
    model.load_state_dict(weights)
    return record


def _read_record(latest: Path) -> dict[str, Any]:
    back = f"; to go back one checkpoint copy {latest.with_name('previous.json')} over it"
    try:
        record = json.loads(latest.read_text())
    except ValueError as error:
        raise CheckpointError(f"{latest} is truncated or altered ({error}){back}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else record
        raise CheckpointError(f"{latest} has checkpoint format {found!r}; this version reads {FORMAT}")
    missing = {"step", "file", "bytes", "blake2b", "model", "macro", "optimizer"} - record.keys()
    if missing:
        raise CheckpointError(f"{latest} lacks {', '.join(sorted(missing))}{back}")
    return record


def _read_tensors(file: Path, record: dict[str, Any]) -> dict[str, Tensor]:
    back = f"; to go back one checkpoint copy previous.json over {file.with_name('latest.json')}"
    if not file.exists():
        raise CheckpointError(f"{file}, which latest.json names, is missing{back}")
    payload = file.read_bytes()
    if len(payload) != record["bytes"]:
        raise CheckpointError(f"{file} is truncated: {len(payload)} bytes, {record['bytes']} were written{back}")
    if _digest(payload) != record["blake2b"]:
        raise CheckpointError(f"{file} was altered: its BLAKE2 hash is not the one latest.json states{back}")
    return safetensors.torch.load(payload)


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} in the model's state_dict is a {type(value).__name__}; only tensors can be saved")
    return {f"model/{name}": value for name, value in state.items()}


def _optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: dict(state) for p, state in optimizer.state.items()}


def _restore_optimizer(
    latest: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
    record: dict[str, Any],
) -> None:
    names = {id(p): name for name, p in model.named_parameters()}
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    if frozen := record["optimizer"].keys() - set(order):
        raise CheckpointError(f"{latest} trained {', '.join(sorted(frozen)[:3])}, which this run does not train")
    state = {order.index(name): dict(numbers) for name, numbers in record["optimizer"].items()}
    for key, tensor in tensors.items():
        if key.startswith("optimizer/"):
            name, what = key.removeprefix("optimizer/").rsplit("/", 1)
            state[order.index(name)][what] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _macro(model: nn.Module) -> str | None:
    fingerprint = getattr(model, "fingerprint", None)
    return None if fingerprint is None else str(fingerprint)


Shapes = dict[str, tuple[str, tuple[int, ...]]]


def _shapes(tensors: dict[str, Tensor]) -> Shapes:
    return {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}


def _fingerprint(shapes: Shapes) -> str:
    return hashlib.blake2b(json.dumps(sorted(shapes.items())).encode(), digest_size=8).hexdigest()


def _difference(saved: Shapes, wanted: Shapes, most: int = 3) -> str:
    parts = []
    for what, names in (("it lacks", wanted.keys() - saved.keys()), ("it has", saved.keys() - wanted.keys())):
        if names:
            parts.append(
                f"{what} {', '.join(sorted(names)[:most])}" + f" and {len(names) - most} more" * (len(names) > most)
            )
    unlike = sorted(name for name in saved.keys() & wanted.keys() if saved[name] != wanted[name])
    parts += [
        f"{n} is {saved[n][0]}{list(saved[n][1])}, wanted {wanted[n][0]}{list(wanted[n][1])}" for n in unlike[:most]
    ]
    if len(unlike) > most:
        parts.append(f"{len(unlike) - most} more tensors of another shape")
    return "; ".join(parts)


def _named(record: Path) -> str | None:
    """The tensor file a record names; None for an unreadable record."""
    try:
        return str(json.loads(record.read_text())["file"])
    except (ValueError, KeyError, TypeError):
        return None


def _digest(payload: bytes) -> str:
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


def _write(file: Path, payload: bytes) -> None:
    """Write under another name, flush to the disk, rename."""
    partial = file.with_name(file.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(payload)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
