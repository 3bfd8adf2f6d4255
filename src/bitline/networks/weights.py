"""Reading a network's weights from safetensors: strict about names, shapes and values, never unpickling."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

SHOWN = 8  # names listed in an error before the rest is only counted


def weight_file(path_or_name: str | os.PathLike[str]) -> Path:
    """The file meant by a path, or by a bare name such as `resnet20-cifar10` in the folder of BITLINE_NETWORKS.

    Raises FileNotFoundError naming what was looked for and where.
    """
    given = Path(path_or_name)
    if given.is_file():
        return given
    if given.name != str(path_or_name) or given.suffix == ".safetensors":
        raise FileNotFoundError(f"no weights at {given}: expected a safetensors file")
    folder = os.environ.get("BITLINE_NETWORKS")
    if not folder:
        raise FileNotFoundError(
            f"weights {given.name!r} is a bare name and BITLINE_NETWORKS is not set: set it to the folder that holds "
            f"{given.name}.safetensors, or give a path"
        )
    file = Path(folder) / f"{given.name}.safetensors"
    if not file.is_file():
        names = sorted(entry.stem for entry in Path(folder).glob("*.safetensors"))
        raise FileNotFoundError(f"no weights {file} (from BITLINE_NETWORKS); there: {', '.join(names) or 'none'}")
    return file


def load_weights(net: nn.Module, path_or_name: str | os.PathLike[str], fresh: Sequence[str] = ()) -> nn.Module:
    """Load a safetensors file into `net` in place and return it.

    Floats of any width are cast to the dtype the network has (float16 files to float32). What matches a pattern of
    `fresh` (`1.4.*`) keeps the network's values, whatever the file has for it. Raises ValueError naming the keys that
    are missing, unexpected, of another shape or kind, or not finite, for a pattern that matches none, and on a file
    that is cut short; `net` is then unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = weight_file(path_or_name)
    try:
        found = load_file(file)
    except SafetensorError as error:
        size = file.stat().st_size
        raise ValueError(f"{file} is not a complete safetensors file ({size} bytes found): {error}") from error

    wanted = net.state_dict()
    for pattern in fresh:
        if not any(_matches(key, [pattern]) for key in wanted):
            raise ValueError(f"fresh: pattern {pattern!r} matches none of {', '.join(wanted)}")
    wanted, found = ({key: held[key] for key in held if not _matches(key, fresh)} for held in (wanted, found))
    problems = [
        *_named("missing from the file", sorted(wanted.keys() - found.keys())),
        *_named("not in the network", sorted(found.keys() - wanted.keys())),
        *_named("of another shape or kind", _mismatched(wanted, found)),
        *_named("not finite", [key for key, value in found.items() if not torch.isfinite(value).all()]),
    ]
    if problems:
        raise ValueError(f"{file} does not fit {type(net).__name__}: " + "; ".join(problems))
    net.load_state_dict({key: value.to(wanted[key].dtype) for key, value in found.items()}, strict=not fresh)
    return net


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _mismatched(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> Iterable[str]:
    for key in sorted(wanted.keys() & found.keys()):
        have, need = found[key], wanted[key]
        if have.shape != need.shape:
            yield f"{key} (file {list(have.shape)}, network {list(need.shape)})"
        elif have.is_floating_point() != need.is_floating_point():
            yield f"{key} (file {have.dtype}, network {need.dtype})"


def _named(what: str, keys: Iterable[str]) -> list[str]:
    keys = list(keys)
    if not keys:
        return []
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return [f"{len(keys)} {what}: {', '.join(keys[:SHOWN])}{more}"]
