"""The common part of layers on a macro: quantise, program, read, scale."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bitline import draws
from bitline.macro import (
    AnyGradient,
    Column,
    Converters,
    Macro,
    Plan,
    Probe,
    Quantised,
    Reads,
    Site,
    choose,
    converters_without,
    fused,
    mac,
    program,
    runs_fused,
    scaled,
    without,
)
from bitline.macro.geometry import Geometry
from bitline.macro.kinds import TableColumn
from bitline.macro.program import check, sampled
from bitline.macro.read import Keep
from bitline.nn.die import Silicon
from bitline.nn.quantizer import Affine, Quantizer
from bitline.nn.ranges import ConverterRange
from bitline.nn.repeat import forget, keep, repeated
from bitline.nn.tail import Tail
from bitline.nn.wiring import Wiring


class CimLayer(nn.Module):
    """The common part of all layers on a macro; ``convert`` makes them."""

    design: Macro  # the macro asked for
    macro: Macro  # the one in use: the design, or one with something ideal
    weight: nn.Parameter
    bias: Tensor | None
    site: Site
    silicon: Silicon
    gradient: AnyGradient  # in use: that asked for, or one a method trains by
    asked: AnyGradient
    plan: Plan
    forced: str | None
    geometry: Geometry
    groups_of: int
    input_quantizer: Quantizer | None
    weight_quantizer: Quantizer | None
    converters: ConverterRange | None
    wiring: Wiring | None

    def attach(
        self,
        macro: Macro,
        site: Site,
        silicon: Silicon,
        gradient: AnyGradient,
        input_quantizer: Quantizer | None,
        weight_quantizer: Quantizer | None,
        force: str | None = None,
    ) -> None:
        """Place this layer on a macro; raises ValueError where it does not fit."""
        self.site, self.silicon, self.gradient, self.forced = site, silicon, gradient, force
        self.input_quantizer, self.weight_quantizer = input_quantizer, weight_quantizer
        self.design, self.asked = macro, gradient
        self.converters = ConverterRange(macro.converter, *macro.value_range) if macro.converter else None
        inputs, outputs, groups = self.matrix_shape
        self.wiring = Wiring((groups * outputs, inputs)).to(self.weight.device) if macro.wires else None
        self.geometry = self._geometry()
        self.probe: Probe | None = None
        self.verified: Tensor | None = None  # weights that the write–verify loop corrects, of their shape; None: all
        self.added_noise: float | None = None
        self.observing = False
        self.positions = 0
        self._pass = (-1, 0)
        macro.layout(*self.matrix_shape)
        self.use(macro)

    def use(self, macro: Macro, cause: str | None = None) -> None:
        """Compute with ``macro`` (the design or a variant of it), one ``cause`` of error made ideal."""
        self.cause = cause
        self.macro = without(macro, cause) if cause else macro
        self._plan()
        self.renew()

    def differentiate(self, gradient: AnyGradient | None) -> None:
        """Pass gradients by another rule, by a plan that can; None: by the one asked for."""
        self.gradient = gradient or self.asked
        self._plan()

    def _plan(self) -> None:
        kept = self.macro == self.design or self.forced == "reference"  # a variant may need another plan
        layout = self.macro.layout(*self.matrix_shape)
        self.plan = choose(self.macro, self.forced if kept else None, layout, self.gradient)

    def renew(self) -> None:
        """Forget what was programmed: the die, the weights or the macro changed."""
        self._column: tuple[tuple[Any, ...], Column, Tensor] | None = None
        self._sample: Tensor | None = None
        forget(self)
        if self.macro.variation is not None and not self.macro.sliced:
            groups, (inputs, outputs) = self.groups_of, self.matrix_shape[:2]
            shape = torch.Size((groups * outputs, inputs))
            silicon, variation = self.silicon, self.macro.variation
            self._sample = sampled(variation, shape, silicon.chip, self.site, silicon.write, self.weight.device).float()

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """(K, N, G) of the layer's matrices."""
        outputs = self.weight.shape[0] // self.groups_of
        return self.weight[0].numel(), outputs, self.groups_of

    @property
    def conversions(self) -> int:
        """Conversions for one sample, as far as one was seen."""
        if self.macro.converter is None and self.macro.column is None:
            return 0
        layout = self.macro.layout(*self.matrix_shape)
        passes = len(self.macro.inputs.radix) if self.macro.inputs else 1
        return self.positions * layout.groups * layout.reads * passes * layout.conversions * layout.outputs

    @property
    def codes(self) -> int:
        """Codes of the layer's converters; 0 without any."""
        if isinstance(self.macro.column, TableColumn):
            return self.macro.column.codes
        return self.macro.converter.codes if self.macro.converter else 0

    @property
    def counts_per_code(self) -> float:
        """One converter step, counts."""
        if isinstance(self.macro.column, TableColumn):
            return self.macro.column.step
        converters = self._converters()
        return float(converters.step.mean()) if converters else 1.0

    def program(self) -> tuple[Column, Tensor]:
        """(programmed column, scale of a weight count: () or (N,)); kept while no gradient is wanted."""
        grad = torch.is_grad_enabled()
        if torch.compiler.is_compiling() and not grad:
            if self._column is None:
                raise RuntimeError(f"{self.site.name}: not programmed yet; run the model once before it is compiled")
            return self._column[1:]  # as the last eager pass wrote the arrays
        key: tuple[Any, ...] = ()
        if not grad:
            state = [self.weight, *(self.weight_quantizer.state_dict().values() if self.weight_quantizer else ())]
            key = (float(self.weight.sum()), *((tensor.data_ptr(), tensor._version) for tensor in state))
            if self._column is not None and self._column[0] == key:
                return self._column[1:]
        if self.weight_quantizer is not None:
            codes, scale, _ = self.weight_quantizer(self.weight)
            scale = scale.flatten() if scale.dim() else scale
        else:
            codes, scale = self.weight, self.weight.new_ones(())
            if self.design.converter is not None or self.design.column is not None:
                scale = self.weight.detach().abs().amax().clamp(min=1e-12)
                codes = codes / scale
        matrix = self.geometry.matrix(codes)
        silicon, around = self.silicon, None
        if grad and self.training and self.wiring is not None and self.macro.wires is not None:
            around = self.wiring.around(matrix, self.macro, self.macro.layout(*self.matrix_shape))
        verified = None if self.verified is None else self.geometry.matrix(self.verified)
        where = (silicon.chip, self.site, silicon.write, self.groups_of)
        column = program(matrix, self.macro, *where, self._sample, around, verified)
        if not grad:
            self._column = (key, column, scale)
        return column, scale

    def forward(self, x: Tensor, tail: Tail | None = None) -> Tensor:
        """The layer's output, product read from the macro; ``tail``: what follows, done at once."""
        if not torch.compiler.is_compiling() and (again := repeated(self, x, tail)) is not None:
            return again
        digital = self.input_quantizer is not None or self.weight_quantizer is not None
        continuous = self.plan.name == "folded" and not digital and self.macro.cell is None
        if tail is not None and (self.observing or continuous):
            return tail(self(x))
        if self.observing:
            self._observe(x)
            return super().forward(x)
        if continuous:
            return self._continuous(x)
        affine = self._packs(x)
        if affine is not None:
            return self._packed(x, affine, tail)
        if self.input_quantizer is not None:
            codes, scale, zero = self.input_quantizer(x)
        else:
            codes, scale, zero = x, x.new_ones(()), None
        column, weight_scale = self.program()
        shifted = zero is not None and self.input_quantizer is not None and self.input_quantizer.asymmetric
        padded, lead = self._prepared(codes, zero if shifted else None)
        if not torch.compiler.is_compiling():
            self._count(padded)
        y = mac(
            padded,
            column,
            self.geometry,
            self._keys(padded),
            self._converters(),
            self.gradient,
            self.plan,
            self.probe,
        )
        after = self._after(scale * weight_scale, tail)
        return self._finish(y, x, zero if shifted else None, after, column, lead)

    def _after(self, factor: Tensor, tail: Tail | None) -> fused.After:
        """What turns counts into outputs."""
        if tail is None:
            return fused.After(factor, self.bias)
        gain, shift = tail.affine()
        bias = shift if self.bias is None else self.bias * gain + shift
        return fused.After(factor * gain, bias, tail.add, tail.relu)

    def _finish(
        self, y: Tensor, x: Tensor, zero: Tensor | None, after: fused.After, column: Column, lead: tuple[int, ...]
    ) -> Tensor:
        """Counts to the layer's output: zero point, scale, bias and what follows."""
        if self.added_noise is not None:
            y = y + self._added(y, column)
        if zero is not None:
            y = y - self.geometry.broadcast(zero.double() * column.wanted.double().sum(1)).to(y.dtype)
        return self._scaled(scaled(y, after.scale, self.geometry).to(x.dtype), after, lead)

    def _scaled(self, y: Tensor, after: fused.After, lead: tuple[int, ...]) -> Tensor:
        """Scaled counts to the layer's output: bias and what follows."""
        if after.bias is not None:
            y = y + self.geometry.broadcast(after.bias).to(y.dtype)
        y = self._finished(y, lead)
        y = y if after.add is None else y + after.add
        return torch.relu(y) if after.relu else y

    def _packs(self, x: Tensor) -> Affine | None:
        """How the inputs are quantised, where the kernel takes them as they are and does it as it reads."""
        quantizer = self.input_quantizer
        if quantizer is None or not quantizer.calibrated or x.device.type != "cpu" or x.dtype == torch.float64:
            return None
        if torch.compiler.is_compiling() or not runs_fused(self.plan, self.cause, self.probe):
            return None
        return quantizer.affine(x)

    def _packed(self, x: Tensor, affine: Affine, tail: Tail | None) -> Tensor:
        """``forward`` with the inputs quantised, and without gradients the outputs finished, inside the kernel."""
        assert self.input_quantizer is not None
        grid = self.input_quantizer.grid
        asymmetric = self.input_quantizer.asymmetric
        column, weight_scale = self.program()
        shaped, pads, lead = self._shaped(x)
        pad = int(affine.zero) if asymmetric else 0
        inputs = Quantised(shaped, affine.scale, affine.zero, grid.low, grid.high, grid.step, affine.rounded, pads, pad)
        self._count_packed(shaped, pads)
        if tail is not None and tail.add is not None:
            outputs = (len(shaped), *self._extent, len(self.weight))
            if lead or tuple(tail.add.movedim(self.geometry.channel, -1).shape) != outputs:  # something broadcast
                return tail(self(x))
        keys, converters = self._keys(x, column.noisy), self._converters()
        after = self._after(affine.scale * weight_scale, tail)
        if not torch.is_grad_enabled() and not asymmetric and self.added_noise is None and fused.plain(column):
            out = fused.run(inputs, column, self.geometry, keys, converters, Keep(), after)
            y = self._finished(self.geometry.restore(out.y, self._extent).to(x.dtype), lead)
            if shaped.data_ptr() == x.data_ptr():
                keep(self, x, y, tail, fused.Prepared(inputs, column, self.geometry, converters, after))
            return y
        if not asymmetric and self.added_noise is None:  # nothing comes between counts and their scale
            y = mac(inputs, column, self.geometry, keys, converters, self.gradient, self.plan, None, after.scale)
            return self._scaled(y.to(x.dtype), after, lead)
        y = mac(inputs, column, self.geometry, keys, converters, self.gradient, self.plan)
        return self._finish(y, x, affine.zero if asymmetric else None, after, column, lead)

    def exact(self, x: Tensor) -> Tensor:
        """What an exact machine computes from the same codes: quantised, but digital."""
        codes, scale, zero = self.input_quantizer(x) if self.input_quantizer is not None else (x, x.new_ones(()), None)
        if self.weight_quantizer is not None:
            weight, weight_scale, _ = self.weight_quantizer(self.weight)
            weight = weight * weight_scale
        else:
            weight = self.weight
        value = codes if zero is None else codes - zero
        return self._exact(value * scale, weight)

    def _continuous(self, x: Tensor) -> Tensor:
        """The continuous limit: the torch layer itself with this die's weights."""
        weight: Tensor = self.weight
        if not torch.compiler.is_compiling():
            check(weight.detach(), self.macro, self.site.name)
        if self.macro.variation is not None:
            assert self._sample is not None
            weight = self.macro.variation.apply(weight, self.geometry.native(self._sample))
        y = self._exact(x, weight)
        if self.gradient.of_chip:
            return y
        clean = self._exact(x, self.weight)
        return clean + (y - clean).detach()

    def _converters(self) -> Converters | None:
        if self.macro.converter is None:
            return None
        if self.converters is None:  # an ideal converter in place of a measured table
            adc = self.macro.converter
            low, step = adc.range.start(adc, *self.macro.value_range)
            return Converters(torch.tensor(low), torch.tensor(step))
        if not self.converters.calibrated:
            raise RuntimeError(
                f"{self.site.name}: converter range not calibrated; call bitline.calibrate(model, loader)"
            )
        found = self.converters()
        return converters_without(self.cause, found) if self.cause else found

    def _keys(self, x: Tensor, noisy: bool = True) -> Tensor | None:
        silicon = self.silicon
        if torch.compiler.is_compiling():
            return None
        last, call = self._pass
        self._pass = (silicon.passes, call + 1 if last == silicon.passes else 0)
        if not noisy:
            return None
        samples = silicon.samples
        if samples is None:
            samples = torch.arange(len(x), device=x.device)
        elif len(samples) != len(x):
            raise ValueError(f"{self.site.name}: {len(x)} samples, but {len(samples)} indices were announced")
        reads = Reads(silicon.seed, silicon.chip, silicon.read, samples.to(x.device))
        return reads.keys(self.site.name, self._pass[1])

    def _added(self, y: Tensor, column: Column) -> Tensor:
        """Gaussian noise of ``added_noise`` (counts rms) on each conversion, fresh per read and unclipped, summed."""
        assert self.added_noise is not None
        power = sum(r**2 for r in column.pass_radix) * sum(r**2 for r in column.radix) * column.layout.reads
        keys = self._keys(y)
        assert keys is not None
        return draws.sample_normals(keys, y.shape).mul_(self.added_noise * power**0.5).to(y.dtype)

    def _observe(self, x: Tensor) -> None:
        if self.input_quantizer is not None and not self.input_quantizer.calibrated:
            self.input_quantizer.observe(x)
        padded, _ = self._prepared(x, None)
        self._count(padded)

    def _count(self, padded: Tensor) -> None:
        self._extent = self.geometry.shape(padded, 1)[:-1]
        self.positions = math.prod(self._extent)

    def _count_packed(self, shaped: Tensor, pads: tuple[tuple[int, int], ...]) -> None:
        grown = [0] * (shaped.dim() - len(pads)) + [before + after for before, after in pads]
        self._count(shaped.new_empty(()).expand([s + g for s, g in zip(shaped.shape, grown, strict=True)]))

    # What a kind of layer adds.

    def _geometry(self) -> Geometry:
        raise NotImplementedError

    def _prepared(self, codes: Tensor, zero: Tensor | None) -> tuple[Tensor, tuple[int, ...]]:
        """(codes padded and shaped for ``mac``, leading shape to restore)."""
        raise NotImplementedError

    def _shaped(self, x: Tensor) -> tuple[Tensor, tuple[tuple[int, int], ...], tuple[int, ...]]:
        """(x shaped for ``mac``, padding that is still to be added, a pair a dimension, leading shape to restore)."""
        raise NotImplementedError

    def _finished(self, y: Tensor, lead: tuple[int, ...]) -> Tensor:
        raise NotImplementedError

    def _exact(self, x: Tensor, weight: Tensor) -> Tensor:
        """The torch layer's own product with other weights."""
        raise NotImplementedError
