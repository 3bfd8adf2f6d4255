"""The common part of layers on a macro: inputs quantised, arrays read, counts scaled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitline import draws
from bitline.macro import Column, Quantised, fused, mac, runs_fused, scaled
from bitline.macro.program import check
from bitline.macro.read import Keep
from bitline.nn.arrays import OnArrays
from bitline.nn.quantizer import Affine
from bitline.nn.repeat import keep, repeated
from bitline.nn.tail import Tail


def _number(x: Tensor) -> torch.dtype:
    """Of a layer's outputs: that of its inputs, but under autocast not less than float32, in which counts are exact."""
    return torch.promote_types(x.dtype, torch.float32) if torch.is_autocast_enabled(x.device.type) else x.dtype


class CimLayer(OnArrays):
    """The common part of all layers on a macro; ``convert`` makes them."""

    @property
    def conversions(self) -> int:
        """Conversions for one sample, as far as one was seen."""
        if self.macro.converter is None and self.macro.column is None:
            return 0
        layout = self.macro.layout(*self.matrix_shape)
        passes = len(self.macro.inputs.radix) if self.macro.inputs else 1
        return self.positions * layout.groups * layout.reads * passes * layout.conversions * layout.outputs

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
        padded, lead = self.padded(codes, zero if shifted else None)
        if not torch.compiler.is_compiling():
            self._count(padded)
        y = mac(
            padded,
            column,
            self.geometry,
            self._keys(padded),
            self.readout(),
            self.gradient,
            self.plan,
            self.probe,
        )
        bias, loose = self._bias(column, weight_scale)
        after = self._after(scale * weight_scale, bias, zero if shifted else None, column, tail)
        return self._finish(y, x, after, column, lead, loose)

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
        keys, converters = self._keys(x, column.noisy), self.readout()
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
        if self.side is None:
            return self.computed(x)
        self.exactly = True
        try:
            y: Tensor = self.side(self, x, self.computed)
        finally:
            self.exactly = False
        return y

    @property
    def reads(self) -> bool:
        """Whether what it gives now is read from arrays."""
        return not self.observing and not self.exactly

    def computed(self, x: Tensor) -> Tensor:
        """What an exact machine computes of the layer alone, without its side path; shapes of ``forward``."""
        return self.product(self.met(x), self.wanted(), self.bias)

    def met(self, x: Tensor) -> Tensor:
        """Inputs as the arrays meet them, as numbers: quantised where they are."""
        if self.input_quantizer is None:
            return x
        codes, scale, zero = self.input_quantizer(x)
        return (codes if zero is None else codes - zero) * scale

    def driven(self, x: Tensor) -> Tensor:
        """What of its inputs the array is driven by: all of them, but for a side path that takes some off."""
        return x if self.side is None else self.side.driven(self, x)

    def _continuous(self, x: Tensor) -> Tensor:
        """The continuous limit: the torch layer itself with this die's weights."""
        if not torch.compiler.is_compiling():
            check(self.weight.detach(), self.macro, self.site.name)
        y = self.product(x, *self.held())
        if self.gradient.of_chip:
            return y
        clean = self.product(x, self.weight, self.bias)
        return clean + (y - clean).detach()

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
        padded, _ = self.padded(x, None)
        self._count(padded)

    def _count(self, padded: Tensor) -> None:
        self._extent = self.geometry.shape(padded, 1)[:-1]
        self.positions = math.prod(self._extent)

    def _count_packed(self, shaped: Tensor, pads: tuple[tuple[int, int], ...]) -> None:
        grown = [0] * (shaped.dim() - len(pads)) + [before + after for before, after in pads]
        self._count(shaped.new_empty(()).expand([s + g for s, g in zip(shaped.shape, grown, strict=True)]))

    # What a kind of layer adds.

    def padded(self, codes: Tensor, zero: Tensor | None) -> tuple[Tensor, tuple[int, ...]]:
        """(codes padded and shaped for ``mac``, leading shape to restore); padded with ``zero``, the code of 0."""
        raise NotImplementedError

    def _shaped(self, x: Tensor) -> tuple[Tensor, tuple[tuple[int, int], ...], tuple[int, ...]]:
        """(x shaped for ``mac``, padding that is still to be added, a pair a dimension, leading shape to restore)."""
        raise NotImplementedError

    def _finished(self, y: Tensor, lead: tuple[int, ...]) -> Tensor:
        raise NotImplementedError
