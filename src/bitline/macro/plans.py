"""The one hot operation, ``mac``, and the plan that runs it.

A plan is a way to compute the same thing: ``folded`` (one ordinary product), ``reference`` (plain torch, the oracle).
``choose`` takes the first that does not refuse. A fused kernel takes its seat in ``PLANS`` between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitline.macro import folded, fused, reference
from bitline.macro.column import Column
from bitline.macro.geometry import Geometry
from bitline.macro.gradients import Gradient, Ste
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
    x: Tensor,
    column: Column,
    geometry: Geometry,
    keys: Tensor | None = None,
    converters: Converters | None = None,
    gradient: Gradient = STE,
    plan: Plan | None = None,
    probe: Probe | None = None,
) -> Tensor:
    """Σ x · w as the macro reads it, in counts.

    ``x``: integer codes (B, S, K) or (B, C, …), already padded; the result (B, S, N) or (B, N, …) is float32, or
    float64 where float32 could not hold it exactly. ``keys``:
    ``Reads.keys`` of the samples, where the macro has fresh noise.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):  # sums of codes are exact, also in mixed precision
        with torch.autocast(device, enabled=False):
            return mac(x, column, geometry, keys, converters, gradient, plan, probe)
    plan = plan or choose(column.macro, layout=column.layout)
    weight = gradient.weight(column)
    if plan.name == "folded":
        y = folded.run(x, column, geometry, keys, column.weight)
        if weight is column.weight:
            return y
        clean = geometry.linear(x.to(y.dtype), weight.to(y.dtype))
        return clean + (y - clean).detach()
    step = converters.step if converters is not None else x.new_ones(())
    read: Tensor = _Mac.apply(x, weight, step, column, geometry, keys, converters, gradient, probe, plan)
    return read


class _Mac(torch.autograd.Function):
    """Forward: the machine. Backward: one ordinary product, weighted by what the forward kept for each output."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        step: Tensor,
        column: Column,
        geometry: Geometry,
        keys: Tensor | None,
        converters: Converters | None,
        gradient: Gradient,
        probe: Probe | None,
        plan: Plan,
    ) -> Tensor:
        needs_x, needs_w, needs_step = ctx.needs_input_grad[:3]
        keep = Keep(inside=gradient.keeps_inside and (needs_x or needs_w), step=needs_step)
        watched = probe is not None or (converters is not None and not (converters.rounds and converters.clips))
        if plan.name == "fused" and not watched and x.device.type == "cpu":
            out = fused.run(x, column, geometry, keys, converters, keep)
        else:
            out = reference.run(x, column, geometry, keys, converters, keep, probe)
        outputs = out.y.shape[-1]

        def native(kept: Tensor | None) -> Tensor | None:
            return None if kept is None else geometry.restore(kept, x, outputs)

        small = x.to(torch.int16) if column.macro.inputs is not None and column.macro.inputs.bits < 15 else x
        if column.drive is not None:
            small = gradient.inputs(x, column)
        ctx.save_for_backward(small, weight, native(out.inside), native(out.step))
        ctx.geometry, ctx.step_shape, ctx.x_dtype = geometry, step.shape, x.dtype
        return geometry.restore(out.y, x, outputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inside, slope = ctx.saved_tensors
        grad_step = None
        if slope is not None:
            each = grad * slope
            grad_step = each.sum() if not ctx.step_shape else ctx.geometry.per_output(each)
        passed = grad.to(ctx.x_dtype) if inside is None else (grad * inside).to(ctx.x_dtype)
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        grad_x = grad_w = None
        if any(needs):
            grad_x, grad_w = ctx.geometry.backward(passed, x.to(passed.dtype), weight.to(passed.dtype), needs)
            grad_w = None if grad_w is None else grad_w.to(weight.dtype)
        return grad_x, grad_w, grad_step, None, None, None, None, None, None, None
