"""Reads that repeat the last one: whatever changes between two of them is seen."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bitline.macro import Chip
from bitline.macro.fused import native
from bitline.nn import Silicon, layers, on_chip, silicon, streamlined
from bitline.nn import repeat as repeats
from test_streamline import Net, placed

pytestmark = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))


@pytest.fixture
def model() -> nn.Module:
    return placed(Net())


def read(model: nn.Module, x: Tensor, samples: Tensor | None = None) -> Tensor:
    silicon(model).begin(torch.arange(len(x)) if samples is None else samples)
    with torch.no_grad():
        y: Tensor = streamlined(model)(x)
    return y


def afresh(model: nn.Module, x: Tensor, samples: Tensor | None = None) -> Tensor:
    """The same with nothing kept."""
    for layer in layers(model).values():
        layer.renew()
    return read(model, x, samples)


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 9, 11, generator=torch.Generator().manual_seed(count))


def test_reads_are_kept_and_give_the_same(model: nn.Module):
    x = images()
    first = read(model, x)
    assert all(layer in repeats._kept for layer in layers(model).values())
    assert torch.equal(read(model, x), first)
    other = images(4).flip(0) * 0.7
    assert torch.equal(read(model, other), afresh(model, other))


def _scale(model: nn.Module) -> None:
    with torch.no_grad():
        layers(model)["fc"].input_quantizer.scale.mul_(1.3)


def _weight(model: nn.Module) -> None:
    layers(model)["one"].weight.data.mul_(0.6)  # unseen by autograd


def _bias(model: nn.Module) -> None:
    with torch.no_grad():
        layers(model)["one"].bias.add_(0.5)


def _norm(model: nn.Module) -> None:
    model.norm2.running_mean.add_(0.5)  # type: ignore[union-attr, operator]


def _another_norm(model: nn.Module) -> None:
    with torch.no_grad():
        model.norm3.weight = nn.Parameter(model.norm3.weight * 1.5)  # type: ignore[union-attr, operator]


def _range(model: nn.Module) -> None:
    layers(model)["fc"].converters.step.mul_(1.2)


def _chip(model: nn.Module) -> None:
    on_chip(model, Chip(2, 6))


CHANGES: tuple[Callable[[nn.Module], None], ...] = (_scale, _weight, _bias, _norm, _another_norm, _range, _chip)


@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__.strip("_") for change in CHANGES])
def test_what_changes_is_seen(model: nn.Module, change: Callable[[nn.Module], None]):
    x = images()
    before = read(model, x)
    change(model)
    after = read(model, x)
    assert not torch.equal(after, before)
    assert torch.equal(after, afresh(model, x))


def test_draws_and_shapes_change(model: nn.Module):
    x = images()
    first = read(model, x)
    assert not torch.equal(read(model, x, torch.arange(4) + 4), first)
    assert torch.equal(read(model, x[:3]), first[:3])
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(read(model, last), first)
    assert torch.equal(read(model, x), first)


def test_inputs_that_are_no_numbers(model: nn.Module):
    x = images()
    read(model, x)
    x[1, 2, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="at least 1 of 1188 inputs of a layer on the macro are NaN"):
        read(model, x)


def test_models_are_copied_and_pickled(model: nn.Module):
    x = images()
    first = read(model, x)
    assert torch.equal(read(copy.deepcopy(model), x), first)
    assert isinstance(silicon(pickle.loads(pickle.dumps(model))), Silicon)


def test_a_layer_that_goes_leaves_nothing(model: nn.Module):
    layer = copy.deepcopy(layers(model)["one"])
    with torch.no_grad():
        layer(images())
    watched = weakref.ref(layer)
    assert layer in repeats._kept
    del layer
    gc.collect()
    assert watched() is None
