"""The exact shell: with ideal columns every encoding, shape and convolution gives the integer product bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitline.converters import Adc
from bitline.macro import Chip, Conv, Converters, Dense, Macro, Plan, Site, choose, mac, program
from bitline.nn.cim import CimLayer
from bitline.nn.convert import convert
from bitline.nn.model import layers
from bitline.nn.quantizers import MinMax

INPUTS = ("unsigned", "twos_complement", "offset", "two_phase", "bipolar")
WEIGHTS: tuple[dict[str, str], ...] = (
    {"kind": "unsigned"},
    {"kind": "twos_complement"},
    {"kind": "differential"},
    {"kind": "differential", "subtract": "digital"},
    {"kind": "offset"},
    {"kind": "offset", "subtract": "digital"},
    {"kind": "binary"},
)


@st.composite
def macros(draw: Any, one_bit: tuple[str, ...] = ("unsigned", "twos_complement", "offset", "bipolar")) -> Macro:
    """Any encoding on any array; schemes that may have a single bit are named."""
    kind = draw(st.sampled_from(INPUTS))
    bits = draw(st.integers(1 if kind in one_bit else 2, 16))
    weights: dict[str, Any] = dict(draw(st.sampled_from(WEIGHTS)))
    if weights["kind"] != "binary":
        weights["bits"] = draw(st.integers(1 if weights["kind"] in one_bit else 2, 16))
        weights["cell_bits"] = draw(st.integers(1, weights["bits"]))
    rows = draw(st.integers(1, 40))
    return Macro.model_validate(
        {
            "name": "random",
            "rows": rows,
            "active_rows": draw(st.none() | st.integers(1, rows)),
            "columns": draw(st.integers(34, 101)),
            "columns_per_adc": draw(st.integers(1, 9)),
            "inputs": {"kind": kind, "bits": bits, "digit_bits": draw(st.integers(1, bits))},
            "weights": weights,
            "converter": {"bits": 16} if draw(st.booleans()) else None,
        }
    )


def lossless(macro: Macro) -> Macro:
    """The macro without its converter where that has too few codes for every count."""
    if macro.converter is None or macro.converter.codes // 2 > macro.full_scale:
        return macro
    return macro.model_copy(update={"converter": None})


def integers(scheme: Any, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Random integers, with the extremes of the scheme overrepresented."""
    generator = torch.Generator().manual_seed(seed)
    steps = (scheme.high - scheme.low) // scheme.stride
    number = torch.randint(0, steps + 1, shape, generator=generator)
    coin = torch.rand(shape, generator=generator)
    number = torch.where(coin < 0.1, 0, torch.where(coin > 0.9, steps, number))
    return number.double() * scheme.stride + scheme.low


@settings(max_examples=250)
@given(
    macro=macros(),
    dims=st.integers(0, 3),
    groups=st.integers(1, 3),
    outputs=st.integers(1, 7),
    inputs=st.integers(1, 90),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_columns_read_the_integer_product(macro, dims, groups, outputs, inputs, seed, data):
    macro = lossless(macro)
    if dims:
        kernel, stride, dilation = (
            tuple(
                data.draw(
                    st.lists(st.integers(1, 3 if name == "kernel" else 2), min_size=dims, max_size=dims), label=name
                )
            )
            for name in ("kernel", "stride", "dilation")
        )
        geometry = Conv(kernel, stride, dilation, groups)
        channels = 1 + inputs % 4
        size = [d * (k - 1) + 1 + extra for d, k, extra in zip(dilation, kernel, (0, 3, 2), strict=False)]
        inputs = channels * geometry.taps
        x = integers(macro.inputs, (2, channels * groups, *size), seed)
    else:
        geometry, groups = Dense(), 1
        x = integers(macro.inputs, (2, 3, inputs), seed)
    w = integers(macro.weights, (outputs * groups, inputs), seed + 1)
    column = program(w, macro, Chip(0, 0), Site("layer"), groups=groups)
    converters = None
    if macro.converter is not None:
        low, step = macro.converter.range.start(macro.converter, *macro.value_range)
        converters = Converters(torch.tensor(low), torch.tensor(step))
    exact = geometry.linear(x.long().double(), w)
    for single in (x, x.float()):
        y = mac(single, column, geometry, None, converters, plan=Plan("reference"))
        assert torch.equal(y.double(), exact)
        if macro.converter is None:
            assert choose(macro).name == "folded"
            assert torch.equal(mac(single, column, geometry).double(), exact)


# ------------------------------------------------------------------------------------------------ converted layers


def plain(kind: type[nn.Module], options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return kind(**options)


@st.composite
def modules(draw: Any) -> tuple[nn.Module, tuple[int, ...]]:
    """A layer in float64, and a shape of its input."""
    dims = draw(st.integers(0, 3))
    bias = draw(st.booleans())
    if not dims:
        k = draw(st.integers(1, 70))
        shape = draw(st.sampled_from([(3, k), (2, 3, k), (k,), (2, 2, 3, k)]))
        return nn.Linear(k, draw(st.integers(1, 6)), bias=bias, dtype=torch.float64), shape
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    groups = draw(st.sampled_from([1, 2, 3]))
    channels = groups * draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims)))

    module = kind(
        channels,
        groups * draw(st.integers(1, 3)),
        each(1, 3),
        stride=each(1, 2),
        dilation=each(1, 2),
        padding=draw(st.sampled_from(["given", "valid"])).replace("given", "") or each(0, 2),
        groups=groups,
        bias=bias,
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        dtype=torch.float64,
    )
    batch = draw(st.sampled_from([(2,), ()]))
    return module, (*batch, channels, *[size + 5 for size in range(dims)])


def with_codes(macro: Macro, module: nn.Module, zero: float, seed: int) -> tuple[CimLayer, nn.Module]:
    """(the layer on the macro, the torch layer), both with integer weights, scales one, inputs shifted by ``zero``."""
    with torch.no_grad():
        module.weight.copy_(integers(macro.weights, tuple(module.weight.shape), seed))
        if module.bias is not None:
            module.bias.copy_(torch.arange(len(module.bias)))
    layer = convert(module, macro, inputs=MinMax(asymmetric=macro.inputs.stride == 1), weights=MinMax())
    assert isinstance(layer, CimLayer)
    for quantizer in (layer.input_quantizer, layer.weight_quantizer):
        quantizer.calibrated = True
        quantizer.double()
        quantizer.scale.fill_(1.0)
        quantizer.zero.zero_()
    layer.input_quantizer.zero.fill_(zero)
    return layer.eval(), module.eval()


@settings(max_examples=220)
@given(macro=macros(("unsigned", "bipolar")), shaped=modules(), share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_layers_read_the_integer_product(macro, shaped, share, seed):
    """All shapes, padding modes and zero points; padding is the code of zero, for bipolar inputs a row that is off."""
    module, shape = shaped
    macro, scheme = lossless(macro), macro.inputs
    zero = round(scheme.low + share * (scheme.high - scheme.low)) if scheme.stride == 1 else 0
    layer, torch_layer = with_codes(macro, module, zero, seed)
    x = integers(scheme, shape, seed + 1) - zero
    with torch.no_grad():
        assert torch.equal(layer(x), torch_layer(x))


@pytest.mark.parametrize("padding", ["same", 1, (0, 2)])
def test_strings_and_tuples_of_padding(padding):
    macro = Macro.model_validate(
        {
            "name": "m",
            "rows": 20,
            "columns": 30,
            "inputs": {"kind": "unsigned", "bits": 4},
            "weights": {"kind": "offset", "bits": 3},
        }
    )
    module = nn.Conv2d(3, 4, (3, 2), padding=padding, dtype=torch.float64)
    layer, torch_layer = with_codes(macro, module, 5, 0)
    x = integers(macro.inputs, (2, 3, 6, 7), 1) - 5
    with torch.no_grad():
        assert torch.equal(layer(x), torch_layer(x))


def test_a_network_in_single_precision_is_exact():
    """As users have it: float32, learned scales; the codes agree with integer arithmetic done apart."""
    torch.manual_seed(0)
    macro = Macro.model_validate(
        {
            "name": "m",
            "rows": 37,
            "columns": 50,
            "inputs": {"kind": "unsigned", "bits": 8, "digit_bits": 3},
            "weights": {"kind": "differential", "bits": 8, "cell_bits": 2},
            "converter": Adc(bits=12),
        }
    )
    from bitline.nn.calibrate import calibrate

    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    x = torch.rand(4, 3, 6, 6)
    model = calibrate(convert(net, macro), [x])
    with torch.no_grad():
        seen = x
        for layer in layers(model).values():
            if isinstance(layer, nn.Linear):
                seen = seen.relu().flatten(1)
            codes, scale, _ = layer.input_quantizer(seen)
            stored, unit, _ = layer.weight_quantizer(layer.weight)
            expected = _product(layer, codes, stored).float() * (scale * unit)
            bias = layer.bias if isinstance(layer, nn.Linear) else layer.bias[:, None, None]
            seen = expected + bias
        assert torch.equal(model(x), seen)


def _product(layer: CimLayer, codes: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(codes.double(), stored.double())
    return nn.functional.conv2d(codes.double(), stored.double(), padding=1)
