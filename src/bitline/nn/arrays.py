"""A layer's weights on the arrays of a die: what it is placed on, and what is written there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitline.devices import OffsetRow
from bitline.macro import AnyGradient, Column, Converters, Macro, Plan, Probe, Site, choose, converters_without, program
from bitline.macro.geometry import Geometry
from bitline.macro.kinds import TableColumn
from bitline.nn.die import OnSilicon, Silicon
from bitline.nn.quantizer import Quantizer
from bitline.nn.ranges import ConverterRange
from bitline.nn.repeat import forget
from bitline.nn.side import SidePath
from bitline.nn.wiring import Wiring


class OnArrays(OnSilicon):
    """A layer's weights as a macro holds them: designs, ranges, and the programmed column. ``CimLayer`` reads it."""

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
        self.observing = False  # of the float network
        self.exactly = False  # computed, by an exact machine
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
            weights = self.drawn("weights", torch.Size((outputs, self.matrix_shape[0])), device)
            self._draws = (whose, weights, self.drawn("bias", torch.Size((outputs,)), device) if row else None)

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
        converters = self.readout()
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

    def wanted(self) -> Tensor:
        """The weights that the arrays are to hold, as numbers: quantised where they are."""
        if self.weight_quantizer is None:
            return self.weight
        codes, scale, _ = self.weight_quantizer(self.weight)
        return codes * scale

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

    def _bias(self, column: Column, scale: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """(bias on this die, (N,); its standard deviation from read to read, () or (N,), None where it has none)."""
        if self.offsets is None or self.bias is None:
            return self.bias, None
        assert self.macro.variation is not None
        found = self.offsets.stored(self.macro.variation, column.wanted, self.bias / scale, None, self._draws[2])
        loose = None if found.deviation is None else found.deviation * found.amplitude * scale.detach()
        return found.b * scale, loose

    def forget_ranges(self) -> None:
        """Ranges of inputs and converters that were calibrated are to be calibrated again: other inputs come."""
        for one in (self.input_quantizer, self.converters):
            if one is not None:
                one.reset()

    def readout(self) -> Converters | None:
        """How the converters run now, with what a cause that is taken out leaves of them; None where there are none.

        Raises RuntimeError where their range is to be calibrated and was not.
        """
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

    # What a kind of layer adds.

    def _geometry(self) -> Geometry:
        raise NotImplementedError

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The torch layer's own exact product with weights (of its own weights' shape) and bias (N,), or other ones."""
        raise NotImplementedError
