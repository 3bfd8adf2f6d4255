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

from bitline.macro import folded, fused, reference, slopes
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
WIDE = (torch.bfloat16,)  # of float32's range: gradients of counts would leave that of float16


def choose(
    macro: Macro, force: str | None = None, layout: Layout | None = None, gradient: Gradient | None = None
) -> Plan:
    """The cheapest plan that computes this macro (a layer of this layout on it), or the one asked for, in forward and,
    where ``gradient`` is given, in backward.

    Raises ValueError if that one cannot.
    """

    def why_not(name: str) -> str | None:
        return dict(PLANS)[name](macro, layout) or (gradient.refuses(name, macro) if gradient is not None else None)

    names = [name for name, _ in PLANS]
    if force is not None:
        if force not in names:
            raise ValueError(f"no plan {force!r}; there are: {', '.join(names)}")
        reason = why_not(force)
        if reason:
            raise ValueError(f"plan {force} cannot run macro {macro.name}: {reason}")
        return Plan(force, "asked for")
    refused: list[str] = []
    for name in names:
        reason = why_not(name)
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
    factor: Tensor | None = None,
    lower: torch.dtype | None = None,
) -> Tensor:
    """Σ x · w as the macro reads it, in counts, or in units of ``factor``, () or (N,).

    ``x``: integer codes (B, S, K) or (B, C, …), already padded, or, for the fused plan, real inputs and how they are
    quantised; the result (B, S, N) or (B, N, …) is float32, or float64 where float32 could not hold it exactly.
    ``keys``: ``Reads.keys`` of the samples, where the macro has fresh noise. Under autocast the read is as without; in
    bfloat16 the products of the backward pass are rounded to it, as those of any other layer are.
    """
    real = x.x if isinstance(x, Quantised) else x
    device = real.device.type
    if torch.is_autocast_enabled(device):  # sums of codes are exact, also in mixed precision
        lower = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return mac(
                x, column, geometry, keys, converters, gradient, plan, probe, factor, lower if lower in WIDE else None
            )
    plan = plan or choose(column.macro, layout=column.layout, gradient=gradient)
    weight = gradient.weight(column)
    if real.requires_grad or (weight.requires_grad and torch.is_grad_enabled()):
        reason = gradient.refuses(plan.name, column.macro)
        if reason is not None:
            raise ValueError(f"plan {plan.name} cannot differentiate {column.site.name}: {reason}")
    if plan.name == "folded":
        assert isinstance(x, Tensor)
        y = folded.run(x, column, geometry, keys, column.weight)
        if weight is column.weight:
            return y
        clean = geometry.linear(x.to(y.dtype), weight.to(y.dtype))
        return clean + (y - clean).detach()
    step = converters.step if converters is not None else real.new_ones(())
    call = _Call(x, column, geometry, keys, converters, gradient, plan, probe, lower)
    scale, zero = (x.scale, x.zero) if isinstance(x, Quantised) else (None, None)
    read: Tensor = _Mac.apply(real, scale, zero, weight, step, factor if call.fused else None, call)
    return read if factor is None or call.fused else scaled(read, factor, geometry)


def scaled(y: Tensor, factor: Tensor, geometry: Geometry) -> Tensor:
    """Outputs times one factor, or one each (N,)."""
    return y * (geometry.broadcast(factor) if factor.dim() else factor).to(y.dtype)


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
    lower: torch.dtype | None  # of the backward pass's products; None: that of the gradient

    @property
    def fused(self) -> bool:
        """Whether the kernel reads."""
        real = self.converters is None or (self.converters.rounds and self.converters.clips)
        cuda = (self.x.x if isinstance(self.x, Quantised) else self.x).is_cuda
        return real and runs_fused(self.plan, None, self.probe) and not (cuda and fused.refuses_cuda())


def _whole(view: Tensor) -> Tensor:
    """The same memory as a tensor that is no view: autograd lets nothing work in place on a view made in a Function."""
    return view.new_empty(0).set_(view.untyped_storage(), view.storage_offset(), view.shape, view.stride())


class _Mac(torch.autograd.Function):
    """Forward: the machine. Backward: one ordinary product, weighted by what the forward kept for each output.

    ``factor``, what counts are multiplied by, is given only where the kernel reads, which does that too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor | None,
        zero: Tensor | None,
        weight: Tensor,
        step: Tensor,
        factor: Tensor | None,
        call: _Call,
    ) -> Tensor:
        needs = ctx.needs_input_grad
        column, geometry, inputs = call.column, call.geometry, call.column.macro.inputs
        products = needs[0] or needs[1] or needs[2] or needs[3]
        keep = replace(call.gradient.keeps(column) if products else Keep(), step=needs[4])
        if call.fused:
            packed = fused.words_of(call.x, column.macro, geometry)
            after = None if factor is None else fused.After(factor)
            out = fused.run(packed, column, geometry, call.keys, call.converters, keep, after)
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

        share = native(out.inside if out.slope is None else out.slope)
        ctx.save_for_backward(kept, weight, share, native(out.step), factor)
        ctx.call, ctx.step_shape, ctx.x_dtype = call, step.shape, x.dtype
        y = _whole(geometry.restore(out.y, at))
        ctx.y = y.detach() if needs[5] else None  # not saved: what follows may write over it
        ctx.version = y._version
        return y

    @staticmethod
    def _outputs(ctx: Any, factor: Tensor) -> Tensor:
        """The outputs of the forward pass; where they were written over they are read again."""
        if ctx.y._version == ctx.version:
            return ctx.y
        call = ctx.call
        out = fused.run(ctx.packed, call.column, call.geometry, call.keys, call.converters, Keep(), fused.After(factor))
        return call.geometry.restore(out.y, ctx.packed.outer(call.geometry))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, share, by_step, factor = ctx.saved_tensors
        call, needs = ctx.call, ctx.needs_input_grad
        geometry = call.geometry
        grad_step = grad_factor = None
        if by_step is not None:
            each = (grad if factor is None else scaled(grad, factor, geometry)) * by_step
            grad_step = each.sum() if not ctx.step_shape else geometry.per_output(each)
        if factor is not None:
            y = _Mac._outputs(ctx, factor) if needs[5] else None
            passed, grad_factor = fused.passed(grad, share, y, factor, geometry)
        else:
            passed = (grad if share is None else grad * share).contiguous()
        passed = passed.to(ctx.x_dtype)
        grad_x = grad_w = grad_scale = grad_zero = None
        wanted = (needs[0] or needs[1] or needs[2], needs[3])
        if any(wanted) and call.gradient.each:
            assert isinstance(call.x, Tensor)
            grad_x, grad_w = slopes.backward(
                grad, call.x.detach(), call.column, geometry, call.keys, call.converters, wanted
            )
            grad_x = None if grad_x is None else grad_x.to(ctx.x_dtype)
            grad_w = None if grad_w is None else grad_w.to(weight.dtype)
        elif any(wanted):
            codes = ctx.packed.codes() if ctx.packed is not None else geometry.channels_last(kept)
            of = call.lower or passed.dtype
            grad_x, grad_w = geometry.backward(passed.to(of), codes.to(of), weight.to(of), wanted)
            grad_w = None if grad_w is None else grad_w.to(weight.dtype)
        if grad_x is not None and isinstance(call.x, Quantised):
            inputs = call.column.macro.inputs
            grad_x, grad_scale, grad_zero = replace(call.x, x=kept).backward(grad_x, inputs.word, geometry)
        return grad_x, grad_scale, grad_zero, grad_w, grad_step, grad_factor, None
