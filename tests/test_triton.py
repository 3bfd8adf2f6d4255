"""The fused plan's CUDA kernel equals the reference plan bit for bit, in Triton's interpreter and where there is a GPU.

Triton reads TRITON_INTERPRET when it is imported, so the interpreter, and the compiler for a GPU that is not there, get
a process each: this file, run with their name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from bitline.converters import Adc
from bitline.encode import (
    BipolarInput,
    DifferentialWeight,
    OffsetWeight,
    TwoPhaseInput,
    TwosComplementWeight,
    UnsignedInput,
)
from bitline.macro import Conv, Converters, Dense, Macro, Reads, reference
from bitline.macro.curves import Compressive, Polynomial
from bitline.macro.fused import After, Quantised, native, plan
from bitline.macro.geometry import Geometry
from bitline.macro.kinds import CurveColumn
from bitline.macro.read import Keep
from contracts import DENSE, EXAMPLES, GROUPED, base, converters_of, inputs_of, integers, programmed

pytest.importorskip("triton")

ALL, NONE = Keep(inside=True, slope=True, step=True), Keep()
NOISY = Adc(bits=6, noise=0.6)
LINE, VOLUME = Conv((3,), (2,), (2,), 1), Conv((2, 1, 2), (1, 2, 1), (1, 1, 2), 1)

Layer = tuple[Macro, Geometry, torch.Tensor, torch.Tensor]  # macro, geometry, inputs, weights


def layer(macro: Macro, geometry: Geometry, x: tuple[int, ...], outputs: int) -> Layer:
    """A layer with inputs of shape ``x``."""
    rows = x[2] if isinstance(geometry, Dense) else x[1] // geometry.groups * geometry.taps
    return macro, geometry, integers(macro.inputs, x, 1), integers(macro.weights, (outputs, rows), 2)


def layers() -> Iterator[tuple[str, Layer]]:
    """What the examples of tests/contracts.py have, and what they have not."""
    for i, example in enumerate(EXAMPLES):
        macro, name, geometry = example.macro, *(("dense", DENSE), ("conv", GROUPED))[i % 2]
        column = programmed(macro, geometry)
        if plan.refuses(macro, column.layout) is None:
            yield f"{example.name}, {name}", (macro, geometry, inputs_of(macro, geometry, batch=2), column.wanted)
    tall = base("rows in three products", rows=140, active_rows=140, inputs=UnsignedInput(bits=3), converter=NOISY)
    yield "several products to a row group, passes odd", layer(tall, DENSE, (2, 3, 200), 20)
    noisy = base("noise of every kind", rows=140, active_rows=100, converter=NOISY, weights=DifferentialWeight(bits=4),
                 column=CurveColumn(mean=Compressive(compression=0.1), sigma=Polynomial(coefficients=(0.5, 1.0)),
                                    gain_sigma=0.02, offset_sigma=0.5), cell={"read_sigma": 0.05})  # fmt: skip
    yield "all noise, two legs, several products", layer(noisy, DENSE, (2, 3, 150), 20)
    signed = TwosComplementWeight(bits=4)
    wide = base("wide", inputs=TwoPhaseInput(bits=9, digit_bits=3), weights=signed, converter=NOISY)
    yield "words of 16 bits", layer(wide, DENSE, (2, 3, 30), 17)
    bits = base("bits", inputs=UnsignedInput(bits=14), weights=OffsetWeight(bits=3), converter=NOISY)
    yield "fourteen passes", layer(bits, DENSE, (1, 2, 12), 17)
    apart = {"errors": [{"kind": "gaussian", "sigma": 0.05}]}
    limbs = base("limbs", weights=DifferentialWeight(bits=4, cell_bits=3), cell=apart, converter=NOISY)
    yield "limbs", layer(limbs, DENSE, (2, 2, 30), 17)
    polar = base("polar", inputs=BipolarInput(bits=2, digit_bits=2), weights=signed, converter=NOISY)
    yield "digits of both signs", layer(polar, LINE, (2, 3, 9), 17)
    plain = base("plain", converter=Adc(bits=6, gain_sigma=0.02, offset_sigma=0.5))
    yield "one dimension", layer(plain, LINE, (2, 3, 12), 33)
    yield "three dimensions", layer(plain, VOLUME, (2, 4, 3, 4, 5), 3)
    runs = base("runs", rows=64, active_rows=64, converter=NOISY)
    yield "inputs sixteen by sixteen", layer(runs, DENSE, (1, 70, 128), 70)


def differences(case: Layer, device: torch.device) -> list[str]:
    """What of a read is not what the reference plan gives."""
    from bitline.macro.fused import gpu_words

    macro, geometry, x, w = case
    found = []
    column, there = programmed(macro, geometry, w=w), programmed(macro, geometry, w=w.to(device))
    keys = Reads(5, column.chip, 0, torch.arange(len(x))).keys("layer")
    converters, inputs = converters_of(macro), macro.inputs
    assert inputs is not None
    assert inputs.word is not None
    if converters is not None and column.layout.groups * column.layout.outputs == 20:  # a range for each output
        low, step = (v + torch.linspace(0, 0.2, 20) for v in (converters.low, converters.step))
        converters = Converters(low, step)
    moved = None if converters is None else Converters(converters.low.to(device), converters.step.to(device))
    on_grid = Quantised(x.to(device), torch.ones(()), torch.zeros(()), inputs.low, inputs.high, inputs.stride)
    words = gpu_words.pack(on_grid, inputs.word, geometry)
    for keep in (ALL, NONE):
        expected = reference.run(x, column, geometry, keys, converters, keep)
        read = plan.run(words, there, geometry, keys.to(device), moved, keep)
        for name in ("y", "inside", "slope", "step"):
            wanted, got = getattr(expected, name), getattr(read, name)
            if name == "inside" and wanted is None and got is not None:  # kept where nothing was clipped, too
                wanted = torch.ones_like(got, device="cpu")
            if (wanted is None) is not (got is None):
                found.append(f"{name} is {'' if got is None else 'not '}absent")
            elif got is not None and not torch.equal(got.cpu(), wanted.float()):
                found.append(f"{int((got.cpu() != wanted).sum())} of {got.numel()} {name}")
    if plan.plain(column):
        scale, bias = torch.rand(len(w)) + 0.5, torch.rand(len(w))
        expected = reference.run(x, column, geometry, keys, converters).y.float() * scale + bias
        add = torch.randn(geometry.restore(expected, words.outer(geometry)).shape)
        for after in (After(scale, bias), After(scale, bias, add, relu=True)):
            there_after = After(*(each.to(device) if isinstance(each, torch.Tensor) else each for each in after))
            y = plan.run(words, there, geometry, keys.to(device), moved, NONE, there_after).y
            wanted = geometry.restore(expected, words.outer(geometry))
            wanted = torch.relu(wanted + add) if after.relu else wanted
            if not torch.equal(geometry.restore(y.cpu(), words.outer(geometry)), wanted):
                found.append(f"y, scaled and moved{' and added to' * after.relu}")
    return found


def quantisers() -> Iterator[tuple[str, Quantised, Any, Geometry]]:
    """Real inputs and how they become codes."""
    generator = torch.Generator().manual_seed(0)
    image, row = torch.randn(2, 3, 5, 4, generator=generator), torch.randn(2, 3, 7, generator=generator)
    conv = Conv((3, 2), (1, 1), (1, 1), 1)
    scale, zero = torch.tensor(0.3), torch.tensor(1.4)
    for inputs in (UnsignedInput(bits=4), TwoPhaseInput(bits=9, digit_bits=4), BipolarInput(bits=2, digit_bits=2)):
        ends = (inputs.low, inputs.high, inputs.stride)
        pad = inputs.high if inputs.stride == 2 else 0
        padded = Quantised(image, scale, zero, *ends, pads=((1, 2), (0, 3)), pad=pad)
        yield f"{inputs.kind}, image", padded, inputs, conv
        nhwc = image.contiguous(memory_format=torch.channels_last)
        yield f"{inputs.kind}, NHWC", Quantised(nhwc, scale, zero, *ends), inputs, conv
        yield f"{inputs.kind}, row", Quantised(row, scale, zero, *ends, rounded=True), inputs, Dense()


def packing(device: torch.device) -> list[str]:
    """What of packed inputs, and of their gradients, is not what the CPU's kernel gives."""
    from bitline.macro.fused import gpu_words

    found = []
    for name, x, inputs, geometry in quantisers():
        there = Quantised(**{**vars(x), "x": x.x.to(device)})
        expected, words = x.words(inputs.word, geometry), gpu_words.pack(there, inputs.word, geometry)
        low = (1 << inputs.word.bits) - 1
        if not torch.equal(words.data.cpu().int() & low, expected.data.int() & low):
            found.append(f"{name}: words")
        codes = expected.codes()
        grad = torch.randn(codes.shape, generator=torch.Generator().manual_seed(1))
        wanted, got = x.backward(grad, inputs.word, geometry), gpu_words.unpack(there, grad.to(device), geometry)
        for what, a, b in zip(("x", "scale", "zero"), got, wanted, strict=True):
            if a.dtype != b.dtype or not torch.allclose(a.cpu(), b, rtol=1e-5, atol=1e-5):
                found.append(f"{name}: gradient of {what}")
    spoilt = Quantised(torch.tensor([[[1.0, torch.nan]]], device=device), torch.ones(()), torch.zeros(()), 0, 15)
    try:
        gpu_words.pack(spoilt, UnsignedInput(bits=4).word, Dense())
        found.append("NaN passes")
    except ValueError:
        pass
    return found


def wrong_on(device: torch.device) -> list[str]:
    """All that differs."""
    found = [f"{name}: {'; '.join(each)}" for name, case in layers() if (each := differences(case, device))]
    return found + packing(device)


def interpret() -> list[str]:
    """What differs in the interpreter."""
    from bitline.macro.fused import cpu, gpu

    with mock.patch.object(cpu, "read", gpu.read):
        return wrong_on(torch.device("cpu"))


def compile_for_a_gpu() -> list[str]:
    """Configurations that do not compile for compute capability 9.0."""
    import triton
    from triton.backends.compiler import GPUTarget

    from bitline.macro.fused import cpu, gpu, gpu_kernel, gpu_words

    class Absent:
        """The driver of a GPU that is not there."""

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int | None = None) -> int:
            return 0

    class Compiled:
        """The kernel, compiled where it would be launched."""

        def __init__(self, config: triton.Config) -> None:
            self.config = config

        def __getitem__(self, grid: object) -> Callable[..., Any]:
            return lambda **given: kernel.fn.warmup(grid=(1,), **given, **self.config.all_kwargs())

    triton.runtime.driver.set_active(Absent())
    kernel, wrong, compiled = gpu.mac, [], 0
    chosen = ("random steps", "all noise", "pooled table", "inputs sixteen by sixteen")
    for name, (macro, geometry, x, w) in layers():
        if (name := name.partition(",")[0]) not in chosen:
            continue
        compiled += 1
        column, inputs = programmed(macro, geometry, w=w), macro.inputs
        assert inputs is not None
        assert inputs.word is not None
        there = Quantised(x, torch.ones(()), torch.zeros(()), inputs.low, inputs.high)
        words = gpu_words.pack(there, inputs.word, geometry)
        keys = Reads(5, column.chip, 0, torch.arange(len(x))).keys("layer")
        configs = gpu_kernel.CONFIGS
        cases = ((configs[1], ALL), (configs[0], NONE))  # the second where all that is particular to it shows
        for config, keep in cases[: 1 + (name == chosen[-1])]:
            with mock.patch.object(gpu, "mac", Compiled(config)), mock.patch.object(cpu, "read", gpu.read):
                try:
                    plan.run(words, column, geometry, keys, converters_of(macro), keep)
                except Exception as error:
                    wrong.append(f"{name}, {config}: {str(error)[-300:]}")
    return wrong if compiled == len(chosen) else [f"{compiled} layers compiled"]


def alone(name: str, **environment: str) -> None:
    """Run a function of this file in a process of its own: it says what is wrong."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root / "src"), str(root / "tests"), *sys.path])
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, __file__, name], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
def test_equals_the_reference_plan_in_the_interpreter() -> None:
    alone("interpret", TRITON_INTERPRET="1")


@pytest.mark.slow
@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
def test_compiles_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    alone("compile_for_a_gpu", TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_equals_the_reference_plan_on_cuda() -> None:
    assert not wrong_on(torch.device("cuda"))


if __name__ == "__main__":
    print("\n".join(problems := globals()[sys.argv[1]]()))
    sys.exit(bool(problems))
