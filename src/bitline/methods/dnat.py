"""D-NAT: error-aware training on a measured table, with its own gradient and two-sided input bounds."""

from __future__ import annotations

from typing import Literal

from torch import nn

from bitline.macro import AnyGradient, Macro, Slope
from bitline.macro.kinds import TableColumn
from bitline.methods.machine import OnFreshChips
from bitline.methods.protocol import Batches
from bitline.nn import differentiate, requantise
from bitline.nn.quantizers import AnyQuantizer, Pact


class DNat(OnFreshChips):
    """Training on the measured table P(code | ideal): a code drawn at each conversion, backward by the table's own
    slope, input bounds learned on both sides (D-NAT, Lin et al., JETCAS 12(2), 2022).

    ``gradient``: ``Slope``, the conditional mean's, or ``Sampled``, that of the code drawn (reference plan, slow);
    which one the paper means is not public. ``Ste`` is its baseline. ``inputs`` takes the place of the inputs'
    quantizers and starts from their ranges: E-PACT; null keeps those there are. A table a column differs from die to
    die, and each step meets a fresh die; a pooled one does not. The published recipe is ``bitline.train.DNAT``.

    Refuses a macro without a measured table, and one whose input codes ``inputs`` does not fit.
    """

    kind: Literal["dnat"] = "dnat"
    gradient: AnyGradient = Slope()
    inputs: AnyQuantizer | None = Pact(asymmetric=True)

    @property
    def title(self) -> str:
        own = [] if self.gradient == Slope() else [self.gradient.kind.replace("_", " ")]
        if self.inputs != Pact(asymmetric=True):
            own.append("quantizers kept" if self.inputs is None else self._bounds(self.inputs))
        return self.titled("D-NAT" + (f" ({', '.join(own)})" if own else ""))

    @staticmethod
    def _bounds(inputs: AnyQuantizer) -> str:
        changed = inputs.model_dump(exclude_defaults=True, exclude={"kind"})
        return " ".join([inputs.kind, *(f"{name}={value}" for name, value in changed.items())])

    def refuses(self, macro: Macro) -> str | None:
        if not isinstance(macro.column, TableColumn):
            return (
                "dnat trains on a measured table, and the macro has none: fit it with bitline.fit_table and put it in "
                "`column`, or use error_aware"
            )
        if self.inputs is not None and (scheme := macro.inputs) is not None:
            try:
                self.inputs.build(scheme.low, scheme.high, role="inputs", step=scheme.stride)
            except ValueError as error:
                return str(error)
        return super().refuses(macro)

    def begin(self, model: nn.Module, batches: Batches) -> None:
        super().begin(model, batches)
        if self.inputs is not None:
            requantise(model, self.inputs)
        differentiate(model, self.gradient)

    def end(self, model: nn.Module) -> None:
        differentiate(model)
        super().end(model)
