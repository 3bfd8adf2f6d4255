"""Hugging Face's ``Conv1D``, of which GPT-2 is made: a linear layer whose weight is stored (inputs, outputs)."""

from __future__ import annotations

import importlib

from torch import nn


def stored_transposed(module: nn.Module) -> bool:
    """Whether it is a ``transformers.pytorch_utils.Conv1D``."""
    kind = type(module)
    return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")


class TransposedLinear(nn.Linear):
    """The linear layer that a ``Conv1D`` is. ``of`` makes it on the same storage, ``restored`` undoes it."""

    @staticmethod
    def of(module: nn.Module) -> TransposedLinear:
        """The same layer; its weight (outputs, inputs) is a view of the module's."""
        weight, bias = module.weight, module.bias
        assert isinstance(weight, nn.Parameter)
        inputs, outputs = weight.shape
        made = TransposedLinear(inputs, outputs, device="meta")
        made.weight = nn.Parameter(weight.detach().t(), requires_grad=weight.requires_grad)
        made._parameters["bias"] = bias  # type: ignore[assignment]
        return made.train(module.training)

    def restored(self) -> nn.Module:
        """The ``Conv1D`` again, with the weights as they are now."""
        kind = importlib.import_module("transformers.pytorch_utils").Conv1D
        made: nn.Module = kind.__new__(kind)
        nn.Module.__init__(made)
        made.nf, made.nx = self.out_features, self.in_features  # type: ignore[assignment]
        made.weight = nn.Parameter(self.weight.detach().t().contiguous(), requires_grad=self.weight.requires_grad)
        made._parameters["bias"] = self.bias
        return made.train(self.training)
