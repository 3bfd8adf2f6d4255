"""The common part of layers on a macro: quantise, program, read, scale."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bitline import draws
from bitline.devices import OffsetRow
from bitline.macro import (
    AnyGradient,
    Column,
    Converters,
    Macro,
    Plan,
    Probe,
    Quantised,
    Site,
    choose,
    converters_without,
    fused,
    mac,
    program,
    runs_fused,
    scaled,
)
from bitline.macro.geometry import Geometry
from bitline.macro.kinds import TableColumn
from bitline.macro.program import check
from bitline.macro.read import Keep
from bitline.nn.die import OnSilicon, Silicon
from bitline.nn.quantizer import Affine, Quantizer
from bitline.nn.ranges import ConverterRange
from bitline.nn.repeat import forget, keep, repeated
from bitline.nn.side import SidePath
from bitline.nn.tail import Tail
from bitline.nn.wiring import Wiring


def _number(x: Tensor) -> torch.dtype:
    """Of a layer's outputs: that of its inputs, but under autocast not less than float32, in which counts are exact."""
    return torch.promote_types(x.dtype, torch.float32) if torch.is_autocast_enabled(x.device.type) else x.dtype


class CimLayer(OnSilicon):
    """The common part of all layers on a macro; ``convert`` makes them."""

    weight: nn.Parameter
    bias: Tensor | None
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
    side: SidePath | None

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
        self.side = None
        self.probe: Probe | None = None
        self.verified: Tensor | None = None  # weights that the write–verify loop corrects, of their shape; None: all
        self.added_noise: float | None = None
        self.observing = False
        self.positions = 0
        self._pass = (-1, 0)
        self._draws: tuple[Any, Tensor | None, Tensor | None] = (None, None, None)
        macro.layout(*self.matrix_shape)
        self.use(macro)

    def use(self, macro: Macro, cause: str | None = None) -> None:
        """Compute with ``macro`` (the design or a variant of it), one ``cause`` of error made ideal."""
        super().use(macro, cause)
        self._plan()

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
        self.erase()
        if (variation := self.macro.variation) is None:
            return
        device, outputs = self.weight.device, len(self.weight)
        row, die = self.offsets is not None, (self.silicon.chip, self.silicon.write, device)
        whose = (*die, row, variation.varies, variation.model_dump(exclude={"sigma"}))
        if self._draws[0] != whose:  # the same on one die, however large the error
            weights = self._drawn("weights", torch.Size((outputs, self.matrix_shape[0])), device)
            self._draws = (whose, weights, self._drawn("bias", torch.Size((outputs,)), device) if row else None)

    @property
    def offsets(self) -> OffsetRow | None:
        """The row that holds this layer's bias; None where it has none, or adds it digitally."""
        return self.macro.bias if self.bias is not None else None

    def erase(self) -> None:
        """Forget the programmed column; it is programmed again, the same, when it is read."""
        self._column: tuple[tuple[Any, ...], Column, Tensor] | None = None
        forget(self)

    @property
    def arrays(self) -> frozenset[int]:
        """Numbers of the arrays it shares with other layers; none where it has its own."""
        pool, first = self.site.pool, self.site.first
        if pool is None:
            return frozenset()
        count = min(self.macro.layout(*self.matrix_shape).arrays, pool)
        return frozenset((first + i) % pool for i in range(count))

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
            state += [self.bias] if self.offsets is not None and self.bias is not None else []
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
        beside = None
        if self.offsets is not None and self.bias is not None:
            offsets = (self.bias / scale).detach()
            beside = offsets / self.offsets.factor(matrix, offsets)
        verified = None if self.verified is None else self.geometry.matrix(self.verified)
        where = (silicon.chip, self.site, silicon.write, self.groups_of)
        column = program(matrix, self.macro, *where, self._draws[1], around, beside, verified)
        if not grad:
            self._column = (key, column, scale)
            if self.site.pool is not None:
                silicon.write_arrays(self)
        return column, scale

    def forward(self, x: Tensor, tail: Tail | None = None) -> Tensor:
        """The layer's output, product read from the macro and corrected by its side path; ``tail``: what follows, done
        at once."""
        if self.side is None:
            return self._read(x, tail)
        y: Tensor = self.side(self, x, self._read)
        return y if tail is None else tail(y)

    def _read(self, x: Tensor, tail: Tail | None = None) -> Tensor:
        """The output as the macro gives it."""
        if not torch.compiler.is_compiling() and (again := repeated(self, x, tail)) is not None:
            return again
        digital = self.input_quantizer is not None or self.weight_quantizer is not None
        fresh = self.macro.variation is not None and self.macro.variation.fresh
        continuous = self.plan.name == "folded" and not digital and self.macro.cell is None and not fresh
        if tail is not None and (self.observing or continuous or (fresh and self.offsets is not None)):
            return tail(self._read(x))
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
        bias, loose = self._bias(column, weight_scale)
        after = self._after(scale * weight_scale, bias, zero if shifted else None, column, tail)
        return self._finish(y, x, after, column, lead, loose)

    def _bias(self, column: Column, scale: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """(bias on this die, (N,); its standard deviation from read to read, () or (N,), None where it has none)."""
        if self.offsets is None or self.bias is None:
            return self.bias, None
        assert self.macro.variation is not None
        found = self.offsets.stored(self.macro.variation, column.wanted, self.bias / scale, None, self._draws[2])
        loose = None if found.deviation is None else found.deviation * found.amplitude * scale.detach()
        return found.b * scale, loose

    def _after(
        self, factor: Tensor, bias: Tensor | None, zero: Tensor | None, column: Column, tail: Tail | None
    ) -> fused.After:
        """What turns counts into outputs; a ``zero`` point, the code of 0, takes zero · Σw off them."""
        if zero is not None:
            off = (factor.double() * zero.double() * column.wanted.double().sum(1)).to(factor.dtype)
            bias = -off if bias is None else bias - off
        if tail is None:
            return fused.After(factor, bias)
        gain, shift = tail.affine()
        return fused.After(factor * gain, shift if bias is None else bias * gain + shift, tail.add, tail.relu)

    def _finish(
        self,
        y: Tensor,
        x: Tensor,
        after: fused.After,
        column: Column,
        lead: tuple[int, ...],
        loose: Tensor | None = None,
    ) -> Tensor:
        """Counts to the layer's output: scale, bias and what follows."""
        if self.added_noise is not None:
            y = y + self._added(y, column)
        y = scaled(y, after.scale, self.geometry).to(_number(x))
        if loose is not None:
            keys = self._keys(y)
            assert keys is not None
            y = y + scaled(draws.sample_normals(keys, y.shape), loose, self.geometry).to(y.dtype)
        return self._scaled(y, after, lead)

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
                return tail(self._read(x))
        keys, converters = self._keys(x, column.noisy), self._converters()
        zero = affine.zero if asymmetric else None
        after = self._after(affine.scale * weight_scale, self.bias, zero, column, tail)
        if not torch.is_grad_enabled() and self.added_noise is None:
            out = fused.run(inputs, column, self.geometry, keys, converters, Keep(), after)
            y = self._finished(self.geometry.restore(out.y, self._extent).to(_number(x)), lead)
            if shaped.data_ptr() == x.data_ptr() and fused.plain(column):
                keep(self, x, y, tail, fused.Prepared(inputs, column, self.geometry, converters, after))
            return y
        if self.added_noise is None:  # nothing comes between counts and their scale
            y = mac(inputs, column, self.geometry, keys, converters, self.gradient, self.plan, None, after.scale)
            return self._scaled(y.to(_number(x)), after, lead)
        y = mac(inputs, column, self.geometry, keys, converters, self.gradient, self.plan)
        return self._finish(y, x, after, column, lead)

    def exact(self, x: Tensor) -> Tensor:
        """What an exact machine computes from the same codes: quantised, but digital, and with the side path."""
        return self._computed(x) if self.side is None else self.side(self, x, self._computed)

    def _computed(self, x: Tensor) -> Tensor:
        return self._exact(self.met(x), self.wanted(), self.bias)

    def met(self, x: Tensor) -> Tensor:
        """Inputs as the arrays meet them, as numbers: quantised where they are."""
        if self.input_quantizer is None:
            return x
        codes, scale, zero = self.input_quantizer(x)
        return (codes if zero is None else codes - zero) * scale

    def driven(self, x: Tensor) -> Tensor:
        """What of its inputs the array is driven by: all of them, but for a side path that takes some off."""
        return x if self.side is None else self.side.driven(self, x)

    def forget_ranges(self) -> None:
        """Ranges of inputs and converters that were calibrated are to be calibrated again: other inputs come."""
        for one in (self.input_quantizer, self.converters):
            if one is not None:
                one.reset()

    def wanted(self) -> Tensor:
        """The weights that the arrays are to hold, as numbers: quantised where they are."""
        if self.weight_quantizer is None:
            return self.weight
        codes, scale, _ = self.weight_quantizer(self.weight)
        return codes * scale

    def _continuous(self, x: Tensor) -> Tensor:
        """The continuous limit: the torch layer itself with this die's weights."""
        if not torch.compiler.is_compiling():
            check(self.weight.detach(), self.macro, self.site.name)
        y = self._exact(x, *self.held())
        if self.gradient.of_chip:
            return y
        clean = self._exact(x, self.weight, self.bias)
        return clean + (y - clean).detach()

    def held(self) -> tuple[Tensor, Tensor | None]:
        """This die's weights and bias, with the frozen errors of weights."""
        error = self.macro.variation
        if error is None:
            return self.weight, self.bias
        _, n, m = self._draws
        n = None if n is None else self.geometry.native(n)
        if self.offsets is None or self.bias is None:
            return error.apply(self.weight, n), self.bias
        found = self.offsets.stored(error, self.weight, self.bias, n, m)
        return found.w, found.b

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

    def _exact(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The torch layer's own product with other weights and another bias."""
        raise NotImplementedError
