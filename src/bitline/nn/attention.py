"""Multi-head attention whose four projections are layers of its own, so that each can sit on a macro."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

PACKED = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")  # in torch's order


class MultiheadAttention(nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention`` with the layers ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``.

    What reaches a projection is (B, L, E) whatever ``batch_first`` says: the first axis counts samples. The product
    of queries and keys and that of scores and values stay digital. ``of`` makes it, ``restored`` undoes it.
    Source: A. Vaswani et al., "Attention is all you need", NeurIPS 2017, section 3.2.
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear  # type: ignore[assignment]

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("make it from a torch layer: MultiheadAttention.of(module)")

    @staticmethod
    def projections(module: nn.MultiheadAttention) -> dict[str, nn.Linear]:
        """The four projections by name; slices of ``in_proj_weight`` and ``in_proj_bias`` share their storage.

        Raises ValueError for ``add_bias_kv`` and ``add_zero_attn``.
        """
        if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
            raise ValueError(
                "attention with add_bias_kv or add_zero_attn cannot sit on a macro: it has keys and values that no "
                "projection makes; build it without them"
            )
        names = ("q_proj", "k_proj", "v_proj")
        if module._qkv_same_embed_dim:
            weights = _thirds(module.in_proj_weight)
        else:
            weights = [getattr(module, f"{name}_weight") for name in names]
        biases = [None] * 3 if module.in_proj_bias is None else _thirds(module.in_proj_bias)
        made = {name: _linear(w, b) for name, w, b in zip(names, weights, biases, strict=True)}
        return made | {"out_proj": _linear(module.out_proj.weight, module.out_proj.bias)}

    @classmethod
    def of(cls, module: nn.MultiheadAttention) -> MultiheadAttention:
        """The same attention with projections of its own. Raises ValueError as ``projections`` does."""
        made = cls.__new__(cls)
        _become(made, module, dict.fromkeys(PACKED), cls.projections(module))
        made._qkv_same_embed_dim = False  # with no packed weights, what keeps torch off its fused encoder layer
        return made

    def restored(self) -> nn.MultiheadAttention:
        """The plain torch layer again, with the weights as they are now."""
        made = nn.MultiheadAttention.__new__(nn.MultiheadAttention)
        inner = (self.q_proj, self.k_proj, self.v_proj)
        same = self.kdim == self.embed_dim and self.vdim == self.embed_dim
        parameters: dict[str, Tensor | None] = dict.fromkeys(PACKED)
        if same:
            parameters["in_proj_weight"] = _joined([layer.weight for layer in inner])
        else:
            parameters |= {f"{name}_proj_weight": layer.weight for name, layer in zip("qkv", inner, strict=True)}
        if all(layer.bias is not None for layer in inner):
            parameters["in_proj_bias"] = _joined([layer.bias for layer in inner])
        out = _linear(self.out_proj.weight, self.out_proj.bias, NonDynamicallyQuantizableLinear)
        _become(made, self, parameters, {"out_proj": out})
        made._qkv_same_embed_dim = same
        return made

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(output, weights of the values or None), shapes and arguments as in torch.

        ``query`` (B, L, E), ``key`` (B, S, kdim), ``value`` (B, S, vdim), the first two axes swapped without
        ``batch_first``, without B unbatched. Raises ValueError for other shapes, nested tensors and masks neither
        boolean nor floating; RuntimeError, as torch does, for ``is_causal`` without ``attn_mask``.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            raise ValueError("nested tensors have no axis of samples: give padded tensors and key_padding_mask")
        if query.dim() not in (2, 3) or not query.dim() == key.dim() == value.dim():
            raise ValueError(
                f"query, key, value of {query.dim()}, {key.dim()}, {value.dim()} axes: all 3, or all 2, are accepted"
            )
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal says what attn_mask is: give attn_mask as well")
        batched = query.dim() == 3
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        if key.shape[:2] != value.shape[:2] or len(query) != len(key):
            shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
            raise ValueError(
                f"query, key, value {shapes} (samples first) differ in samples or in the length of key and value"
            )
        causal = is_causal and key_padding_mask is None and not need_weights
        bias = self._bias(query, key, None if causal else attn_mask, key_padding_mask)
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * math.sqrt(1 / q.shape[-1]) @ k.transpose(-2, -1)
            weights = F.dropout(torch.softmax(scores if bias is None else scores + bias, -1), dropout)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, bias, dropout, causal)
        y: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return y[0], None if weights is None else weights[0]
        return y if self.batch_first else y.transpose(0, 1), weights

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, E) to (B, heads, L, E/heads)."""
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _bias(self, query: Tensor, key: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """Both masks as one term to add to the scores, broadcast to (B, heads, L, S)."""
        (batch, length), source = query.shape[:2], key.shape[1]
        bias = None
        if attn_mask is not None:
            shapes = ((length, source), (batch * self.num_heads, length, source))
            if tuple(attn_mask.shape) not in shapes:
                raise ValueError(f"attn_mask {tuple(attn_mask.shape)}: {shapes[0]} or {shapes[1]} is needed")
            mask = _additive(attn_mask, query.dtype)
            bias = mask[None, None] if mask.dim() == 2 else mask.view(batch, self.num_heads, length, source)
        if padding is not None:
            if tuple(padding.shape) != (batch, source):
                raise ValueError(
                    f"key_padding_mask {tuple(padding.shape)}: (samples, keys) = {(batch, source)} is needed"
                )
            mask = _additive(padding, query.dtype)[:, None, None]
            bias = mask.expand(-1, self.num_heads, length, -1) if bias is None else bias + mask
        return bias


def padded_encoders(model: nn.Module, on: bool) -> None:
    """Make torch's encoder stacks keep padded tokens (B, L, E), or do again as they were built.

    In eval mode with ``src_key_padding_mask`` a stack may pack its tokens into a nested tensor, which only torch's
    fused path can read. Padded places of the output, 0 from a nested tensor, then hold what the layers computed.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            if on:
                module.__dict__.setdefault("_nested_as_built", module.use_nested_tensor)
                module.use_nested_tensor = False
            elif "_nested_as_built" in module.__dict__:
                module.use_nested_tensor = module.__dict__.pop("_nested_as_built")


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask (True: not allowed) as 0 and −∞; a floating one as it is."""
    if mask.is_floating_point():
        return mask.to(dtype)
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask of {mask.dtype}: boolean (True: not allowed) or floating (added to the scores) is needed"
        )
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, -math.inf)


def _thirds(packed: nn.Parameter) -> list[nn.Parameter]:
    """The parts of queries, keys and values along axis 0, as parameters on the same storage."""
    return [nn.Parameter(part, requires_grad=packed.requires_grad) for part in packed.detach().chunk(3)]


def _joined(parts: list[Tensor]) -> nn.Parameter:
    joined = torch.cat([part.detach() for part in parts])
    return nn.Parameter(joined, requires_grad=any(part.requires_grad for part in parts))


def _linear(weight: Tensor, bias: Tensor | None, kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
    """A linear layer of these very parameters."""
    made = kind(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made._parameters["weight"] = weight  # type: ignore[assignment]
    made._parameters["bias"] = bias  # type: ignore[assignment]
    return made


def _become(
    made: nn.MultiheadAttention,
    module: nn.MultiheadAttention,
    parameters: Mapping[str, Tensor | None],
    layers: Mapping[str, nn.Linear],
) -> None:
    """Give ``made`` the attributes of ``module`` and parameters and layers of its own."""
    nn.Module.__init__(made)
    own = ("_modules", "_parameters", "_buffers")
    made.__dict__.update({k: v for k, v in module.__dict__.items() if k not in own})
    for name, parameter in parameters.items():
        made._parameters[name] = parameter  # type: ignore[assignment]
    for name, layer in layers.items():
        layer.train(module.training)
        made.add_module(name, layer)
