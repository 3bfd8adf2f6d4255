"""Hugging Face's classifiers as Bitline calls networks: a tensor in, a tensor out."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn


class TokenClassifier(nn.Module):
    """A ``transformers`` model for sequence classification: token ids int64 [B, L] to logits f32 [B, classes].

    The model is given ``input_ids`` and an ``attention_mask`` that leaves out ``pad``, and answers with an object that
    has ``logits``: any ``…ForSequenceClassification`` does. So that a batch is ``(ids, labels, index)``, as everywhere;
    inputs that are dictionaries (``token_type_ids`` …) need a module like this one of their own.
    """

    def __init__(self, model: nn.Module, pad: int = 0) -> None:
        super().__init__()
        self.model, self.pad = model, pad

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B N"]:
        """The logits."""
        answer: Any = self.model(input_ids=ids, attention_mask=(ids != self.pad).long())
        logits: Tensor = answer.logits
        return logits
