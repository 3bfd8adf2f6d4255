"""The one hot operation, ``mac``, and the plan that runs it.

A plan is a way to compute the same thing: ``folded`` (one ordinary product), ``reference`` (plain torch, the oracle).
``choose`` takes the first that does not refuse. A fused kernel takes its seat in ``PLANS`` between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bitline.macro import folded, fused, reference
from bitline.macro.column import Column
from bitline.macro.fused import Quantised
from bitline.macro.geometry import Geometry
from bitline.macro.gradients import Gradient, Ste
from bitline.macro.ideals import CONVERTER_CAUSES
from bitline.macro.macro import Macro
from bitline.macro.placement import Layout
from bitline.macro.read import Converters, Keep, Probe


@dataclass(frozen=True)
class Plan:
    """A way to run ``mac``: its name, and why it was taken."""

    name: str
    why: str = ""


PLANS: tuple[tuple[str, Callable[[Macro, Layout | None], str | None]], ...] = (
    ("folded", lambda macro, _: folded.refuses(macro)),
    ("fused", fused.refuses),
    ("reference", lambda *_: None),
)


STE = Ste()


def choose(macro: Macro, force: str | None = None, layout: Layout | None = None) -> Plan:
    """The cheapest plan that computes this macro (a layer of this layout on it), or the one asked for.

    Raises ValueError if that one cannot.
    """
    names = [name for name, _ in PLANS]
    if force is not None:
        if force not in names:
            raise ValueError(f"no plan {force!r}; there are: {', '.join(names)}")
        reason = dict(PLANS)[force](macro, layout)
        if reason:
            raise ValueError(f"plan {force} cannot run macro {macro.name}: {reason}")
        return Plan(force, "asked for")
    refused: list[str] = []
    for name, refuses in PLANS:
        reason = refuses(macro, layout)
        if reason is None:
            return Plan(name, "; ".join(refused) or "the read is linear and is not converted")
        refused.append(f"not {name}: {reason}")
    raise AssertionError("the reference plan refuses nothing")


def mac(
    x: Tensor | Quantised,
    column: Column,
    geometry: Geometry,
    keys: Tensor | None = None,
    converters: Converters | None = None,
    gradient: Gradient = STE,
    plan: Plan | None = None,
    probe: Probe | None = None,
) -> Tensor:
    """Σ x · w as the macro reads it, in counts.

    ``x``: integer codes (B, S, K) or (B, C, …), already padded, or, for the fused plan, real inputs and how they are
    quantised; the result (B, S, N) or (B, N, …) is float32, or float64 where float32 could not hold it exactly.
    ``keys``: ``Reads.keys`` of the samples, where the macro has fresh noise.
    """
    real = x.x if isinstance(x, Quantised) else x
    device = real.device.type
    if torch.is_autocast_enabled(device):  # sums of codes are exact, also in mixed precision
        with torch.autocast(device, enabled=False):
            return mac(x, column, geometry, keys, converters, gradient, plan, probe)
    plan = plan or choose(column.macro, layout=column.layout)
    weight = gradient.weight(column)
    if plan.name == "folded":
        assert isinstance(x, Tensor)
        y = folded.run(x, column, geometry, keys, column.weight)
        if weight is column.weight:
            return y
        clean = geometry.linear(x.to(y.dtype), weight.to(y.dtype))
        return clean + (y - clean).detach()
    step = converters.step if converters is not None else real.new_ones(())
    call = _Call(x, column, geometry, keys, converters, gradient, plan, probe)
    scale, zero = (x.scale, x.zero) if isinstance(x, Quantised) else (None, None)
    read: Tensor = _Mac.apply(real, scale, zero, weight, step, call)
    return read


def runs_fused(plan: Plan, cause: str | None, probe: Probe | None) -> bool:
    """Whether a read goes through the kernel.

    Not where a probe looks at single conversions, nor where the ``cause`` of error made ideal is the converters'.
    """
    return plan.name == "fused" and probe is None and cause not in CONVERTER_CAUSES


@dataclass(frozen=True)
class _Call:
    """What a read needs beside the tensors that have gradients."""

    x: Tensor | Quantised
    column: Column
    geometry: Geometry
    keys: Tensor | None
    converters: Converters | None
    gradient: Gradient
    plan: Plan
    probe: Probe | None


class _Mac(torch.autograd.Function):
    """Forward: the machine. Backward: one ordinary product, weighted by what the forward kept for each output."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor | None, zero: Tensor | None, weight: Tensor, step: Tensor, call: _Call
    ) -> Tensor:
        needs = ctx.needs_input_grad
        column, geometry, inputs = call.column, call.geometry, call.column.macro.inputs
        products = needs[0] or needs[1] or needs[2] or needs[3]
        keep = replace(call.gradient.keeps(column) if products else Keep(), step=needs[4])
        real = call.converters is None or (call.converters.rounds and call.converters.clips)
        real = real and not (x.is_cuda and fused.refuses_cuda())
        if real and runs_fused(call.plan, None, call.probe):
            packed = fused.words_of(call.x, column.macro, geometry)
            out = fused.run(packed, column, geometry, call.keys, call.converters, keep)
            ctx.packed, kept = packed, x if isinstance(call.x, Quantised) else None
            at: tuple[int, ...] = packed.outer(geometry)
        else:
            assert isinstance(call.x, Tensor)
            out = reference.run(call.x, column, geometry, call.keys, call.converters, keep, call.probe)
            small = inputs is not None and inputs.bits < 15 and column.drive is None
            ctx.packed, kept = None, x.to(torch.int16) if small else call.gradient.inputs(x, column)
            at = geometry.shape(x, 1)[:-1]

        def native(value: Tensor | None) -> Tensor | None:
            return None if value is None else geometry.restore(value, at)

        ctx.save_for_backward(kept, weight, native(out.inside if out.slope is None else out.slope), native(out.step))
        ctx.call, ctx.step_shape, ctx.x_dtype = call, step.shape, x.dtype
        return geometry.restore(out.y, at)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, share, by_step = ctx.saved_tensors
        call, needs = ctx.call, ctx.needs_input_grad
        geometry = call.geometry
        grad_step = None
        if by_step is not None:
            each = grad * by_step
            grad_step = each.sum() if not ctx.step_shape else geometry.per_output(each)
        passed = grad.to(ctx.x_dtype) if share is None else (grad * share).to(ctx.x_dtype)
        grad_x = grad_w = grad_scale = grad_zero = None
        wanted = (needs[0] or needs[1] or needs[2], needs[3])
        if any(wanted):
            codes = ctx.packed.codes() if ctx.packed is not None else geometry.channels_last(kept)
            grad_x, grad_w = geometry.backward(
                passed.contiguous(), codes.to(passed.dtype), weight.to(passed.dtype), wanted
            )
            grad_w = None if grad_w is None else grad_w.to(weight.dtype)
        if grad_x is not None and isinstance(call.x, Quantised):
            inputs = call.column.macro.inputs
            grad_x, grad_scale, grad_zero = replace(call.x, x=kept).backward(grad_x, inputs.word, geometry)
        return grad_x, grad_scale, grad_zero, grad_w, grad_step, None
