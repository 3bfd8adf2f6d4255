"""Attention with projections of its own: torch's results in every mode, on a macro and back."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from bitline.macro import Macro
from bitline.networks import Vit
from bitline.nn.attention import MultiheadAttention
from bitline.nn.calibrate import calibrate
from bitline.nn.cim import CimLayer
from bitline.nn.convert import convert, mapping, restore
from bitline.nn.layers import Linear
from bitline.nn.model import layers, silicon
from bitline.nn.quantizers import MinMax

IDEAL = Macro(name="ideal", rows=64, columns=64)
INTEGER = Macro.model_validate(
    {
        "name": "integer",
        "rows": 64,
        "columns": 64,
        "inputs": {"kind": "twos_complement", "bits": 8, "digit_bits": 8},
        "weights": {"kind": "differential", "bits": 8, "cell_bits": 7},
    }
)
B, L, S, E, H = 3, 5, 4, 8, 2


def _module(**options: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(E, H, **options)  # type: ignore[arg-type]
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.uniform_(parameter, -1, 1)
    return module


def _close(got: Tensor | None, wanted: Tensor | None) -> bool:
    if got is None or wanted is None:
        return got is wanted
    return got.shape == wanted.shape and torch.allclose(got, wanted, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "free"])
@pytest.mark.parametrize("dims", [{}, {"kdim": 6, "vdim": 7}], ids=["same", "dims"])
@pytest.mark.parametrize("batch_first", [True, False], ids=["first", "second"])
def test_equals_torch(batched: bool, bias: bool, dims: dict[str, int], batch_first: bool) -> None:
    theirs = _module(bias=bias, batch_first=batch_first, dropout=0.3, **dims)
    ours = MultiheadAttention.of(theirs)

    def draw(length: int, width: int) -> Tensor:
        lead = () if not batched else (B, length) if batch_first else (length, B)
        return torch.randn(*(lead or (length,)), width)

    query, key, value = draw(L, E), draw(S, dims.get("kdim", E)), draw(S, dims.get("vdim", E))
    samples = B if batched else 1
    below = torch.ones(L, S).tril() == 0
    each = torch.rand(samples * H, L, S) < 0.3
    each[..., 0] = False
    padding = torch.zeros(samples, S, dtype=torch.bool)
    padding[0, -1] = True
    padding = padding if batched else padding[0]
    masks = [None, below, each, torch.randn(L, S), torch.randn(samples * H, L, S)]
    paddings = [None, padding, torch.randn(padding.shape)]
    for mask, pad, weights, average, training in itertools.product(masks, paddings, *[[True, False]] * 3):
        if mask is not None and pad is not None and mask.dtype != pad.dtype:
            continue  # torch deprecates it
        for causal in {mask is below, False}:
            theirs.train(training), ours.train(training)
            results = []
            for module in (theirs, ours):
                torch.manual_seed(1)
                found = module(query, key, value, pad, weights, mask, average, causal)
                results.append(found)
            assert _close(results[1][0], results[0][0]), (mask, pad, weights, average, training, causal)
            assert _close(results[1][1], results[0][1])
    assert ours.q_proj.weight.shape == (E, E)
    assert (ours.q_proj.bias is not None) == bias


def test_restored_is_torch_again() -> None:
    for options in ({}, {"kdim": 6}, {"bias": False}, {"batch_first": True, "dropout": 0.1}):
        module = _module(**options).eval()
        module.out_proj.weight.requires_grad_(False)
        back = MultiheadAttention.of(module).restored()
        assert type(back) is nn.MultiheadAttention
        assert type(back.out_proj) is type(module.out_proj)
        assert repr(back) == repr(module)
        assert not back.training
        assert list(back.state_dict()) == list(module.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(back.parameters(), module.parameters(), strict=True))
        flags = [[p.requires_grad for p in m.parameters()] for m in (back, module)]
        assert flags[0] == flags[1]
        own = {k: v for k, v in module.__dict__.items() if k not in ("_modules", "_parameters")}
        assert own == {k: v for k, v in back.__dict__.items() if k not in ("_modules", "_parameters")}


def test_projections_share_values_and_train() -> None:
    module = _module()
    first = MultiheadAttention.projections(module)
    ours = MultiheadAttention.of(module)
    for name, linear in first.items():
        assert type(linear) is nn.Linear
        own = ours.get_submodule(name)
        assert linear.weight.data_ptr() == own.weight.data_ptr()
        assert isinstance(own.weight, nn.Parameter)
    assert dict(ours.named_parameters()).keys() == {
        f"{n}_proj.{p}" for n in ("q", "k", "v", "out") for p in ("weight", "bias")
    }
    x = torch.randn(L, B, E)
    before = ours(x, x, x)[0].detach()
    optimizer = torch.optim.SGD(ours.parameters(), 0.1)
    ours(x, x, x)[0].square().sum().backward()
    assert all(p.grad is not None for p in ours.parameters())
    optimizer.step()
    after = ours(x, x, x)[0]
    assert not torch.equal(after, before)
    assert torch.allclose(copy.deepcopy(ours).restored()(x, x, x)[0], after, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_refusals() -> None:
    for options in ({"add_bias_kv": True}, {"add_zero_attn": True}):
        for make in (MultiheadAttention.of, MultiheadAttention.projections):
            with pytest.raises(ValueError, match="add_bias_kv or add_zero_attn"):
                make(_module(**options))
    with pytest.raises(TypeError, match=r"MultiheadAttention\.of"):
        MultiheadAttention(E, H)
    ours = MultiheadAttention.of(_module(batch_first=True))
    nested = torch.nested.nested_tensor([torch.randn(2, E), torch.randn(3, E)])
    with pytest.raises(ValueError, match="nested tensors"):
        ours(nested, nested, nested)
    x, y = torch.randn(B, L, E), torch.randn(B, S, E)
    with pytest.raises(ValueError, match=r"3, 2, 3 axes"):
        ours(x, y[0], y)
    with pytest.raises(ValueError, match=r"differ in samples"):
        ours(x, y[:2], y[:2])
    with pytest.raises(ValueError, match=r"attn_mask \(4, 5\): \(5, 4\) or \(6, 5, 4\)"):
        ours(x, y, y, attn_mask=torch.zeros(S, L))
    with pytest.raises(ValueError, match=r"key_padding_mask \(4, 3\): .* \(3, 4\)"):
        ours(x, y, y, torch.zeros(S, B))
    with pytest.raises(ValueError, match=r"torch\.int64: boolean"):
        ours(x, y, y, torch.zeros(B, S, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="give attn_mask"):
        ours(x, y, y, is_causal=True)


def _vit() -> nn.Module:
    return Vit(size=8, patch=4, width=16, depth=2, heads=2, hidden=24).build().eval()


@torch.no_grad()
def test_vit_on_an_ideal_macro() -> None:
    net, x = _vit(), torch.randn(3, 3, 8, 8)
    model = convert(net, IDEAL)
    assert torch.allclose(model(x), net(x), atol=1e-5)
    names = list(layers(model))
    assert len(names) == 2 + 2 * 6
    assert "layers.0.attention.q_proj" in names
    assert all(row.macro for row in mapping(model) if "attention" in row.layer)
    back = restore(model)
    assert list(back.state_dict()) == list(net.state_dict())
    assert torch.equal(back(x), net(x))
    assert type(net.get_submodule("layers.0.attention")) is nn.MultiheadAttention


@torch.no_grad()
def test_vit_on_an_integer_macro() -> None:
    net, x = _vit(), torch.randn(16, 3, 8, 8)
    model = calibrate(convert(net, INTEGER, inputs=MinMax(), weights=MinMax()), [x])
    wanted = net(x)
    assert float((model(x) - wanted).norm() / wanted.norm()) < 0.03
    assert torch.equal(restore(model)(x), wanted)


def test_skipped_projections_stay_digital() -> None:
    model = convert(_vit(), IDEAL, skip=["*.k_proj", "layers.1.*"])
    attention = model.get_submodule("layers.0.attention")
    assert isinstance(attention, MultiheadAttention)
    assert isinstance(attention.q_proj, Linear)
    assert type(attention.k_proj) is nn.Linear
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    back = restore(model)
    assert not any(isinstance(module, CimLayer | MultiheadAttention) for module in back.modules())


def test_attention_itself_and_attention_twice() -> None:
    module, x = _module(), torch.randn(L, B, E)
    model = convert(module, IDEAL)
    assert list(layers(model)) == ["q_proj", "k_proj", "v_proj", "out_proj"]
    assert torch.allclose(model(x, x, x)[0], module(x, x, x)[0], atol=1e-5)
    assert torch.equal(restore(model)(x, x, x)[0], module(x, x, x)[0])
    with pytest.raises(ValueError, match=r"second\.q_proj is the same module as first\.q_proj"):
        convert(nn.ModuleDict({"first": module, "second": module}), IDEAL)


def test_a_layer_alone() -> None:
    net, x = nn.Linear(4, 3), torch.randn(2, 4)
    model = convert(net, IDEAL)
    assert isinstance(model, Linear)
    assert torch.equal(model(x), net(x))
    assert type(restore(model)) is nn.Linear


@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_samples_come_first(batch_first: bool) -> None:
    model = convert(_module(batch_first=batch_first), IDEAL)
    seen = []
    for layer in layers(model).values():
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:2]))
    x = torch.randn(B, L, E) if batch_first else torch.randn(L, B, E)
    model(x, x, x, need_weights=False)
    assert seen == [(B, L)] * 4
    seen.clear()
    model(*[torch.randn(L, E)] * 3)
    assert seen == [(1, L)] * 4


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the layers that computed; hooks would turn torch's fused path off by themselves."""
    names: set[str] = set()
    product = CimLayer._continuous

    def spy(self: CimLayer, x: Tensor) -> Tensor:
        names.add(self.site.name)
        return product(self, x)

    monkeypatch.setattr(CimLayer, "_continuous", spy)
    return names


@pytest.mark.parametrize("skip", [[], ["*self_attn.*"]], ids=["all", "feed-forward"])
@torch.no_grad()
def test_torch_encoder_layer_calls_every_layer(skip: list[str], called: set[str]) -> None:
    net = nn.TransformerEncoderLayer(E, H, 16, batch_first=True).eval()
    x = torch.randn(B, L, E)
    wanted = net(x)
    model = convert(net, IDEAL, skip=skip)
    assert torch.allclose(model(x), wanted, atol=1e-5)
    assert called == set(layers(model))
    assert len(called) == (2 if skip else 6)
    if skip:  # why attention is replaced even where it stays digital: torch's own would leave out linear1 and linear2
        called.clear()
        model.self_attn = model.get_submodule("self_attn").restored()  # type: ignore[operator]
        assert torch.allclose(model(x), wanted, atol=1e-5)
        assert not called


@pytest.mark.parametrize("skip", [[], ["*self_attn.*"]], ids=["all", "feed-forward"])
@torch.no_grad()
def test_torch_encoder_calls_every_layer(skip: list[str], called: set[str]) -> None:
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(E, H, 16, batch_first=True), 2).eval()
    x, padding = torch.randn(B, L, E), torch.zeros(B, L, dtype=torch.bool)
    padding[0, -2:] = True
    wanted = net(x, src_key_padding_mask=padding)
    model = convert(net, IDEAL, skip=skip)
    silicon(model).begin(torch.arange(B))
    got = model(x, src_key_padding_mask=padding)
    assert torch.allclose(got[~padding], wanted[~padding], atol=1e-5)
    assert called == set(layers(model))
    back = restore(model)
    assert back.__dict__.keys() == net.__dict__.keys()
    assert torch.equal(back(x, src_key_padding_mask=padding), wanted)
    assert list(back.state_dict()) == list(net.state_dict())


def test_torch_decoder_layer() -> None:
    net = nn.TransformerDecoderLayer(E, H, 16, batch_first=True).eval()
    x, memory = torch.randn(B, L, E), torch.randn(B, S, E)
    mask = nn.Transformer.generate_square_subsequent_mask(L)
    wanted = net(x, memory, tgt_mask=mask, tgt_is_causal=True)
    model = convert(net, IDEAL)
    assert torch.allclose(model(x, memory, tgt_mask=mask, tgt_is_causal=True), wanted, atol=1e-5)
