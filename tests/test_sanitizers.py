"""The fused kernel under the address and undefined behaviour sanitizers, in calls as the library makes them."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, seed, settings

from bitline.macro import Dense, fused
from bitline.macro.fused import native
from bitline.macro.fused.words import ROOM, Quantised
from test_fused import EVERYTHING, Case, Keep, cases, instructions, random

HERE = Path(__file__).parent
FLAGS = ("-g", "-O0", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", "-pthread")
COMPARED = {"bitline_mac": ("y", "inside", "mean_slope", "step"), "bitline_pack": ("words",)}
COMPARED |= {"bitline_unpack": ("grad_x", "sums"), "bitline_pass": ("passed", "sums")}


class Recorder:
    """Stands for the kernel's library: writes each call, its buffers and what came out to a file."""

    def __init__(self, file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file, self.library, self.calls = file, native.kernel(), 0
        self.sizes: dict[int, int] = {}
        pointer = torch.Tensor.data_ptr

        def watched(tensor: torch.Tensor) -> int:
            at = pointer(tensor)
            self.sizes[at] = tensor.untyped_storage().nbytes() - tensor.storage_offset() * tensor.element_size()
            return at

        monkeypatch.setattr(torch.Tensor, "data_ptr", watched)
        monkeypatch.setattr(native, "kernel", lambda: self)

    def __getattr__(self, name: str) -> Any:
        def call(argument: Any) -> Any:
            task = argument._obj
            found = list(self.pointers(task, 0))
            inputs = {at: ctypes.string_at(at, self.sizes[at]) for _, at, _ in found}
            result = getattr(self.library, name)(argument)
            self.file.write(struct.pack("qq", list(COMPARED).index(name), ctypes.sizeof(task)))
            self.file.write(bytes(task))
            self.file.write(struct.pack("q", len(found)))
            for offset, at, field in found:
                size = self.sizes[at]
                compared = size if field in COMPARED[name] else 0
                if field == "words" and compared:
                    compared -= ROOM * task.word_bytes
                self.file.write(struct.pack("qqq", offset, size, compared))
                self.file.write(ctypes.string_at(at, size) if compared else inputs[at])
            self.calls += 1
            return result

        return call if name in COMPARED else getattr(self.library, name)

    def pointers(self, task: ctypes.Structure, start: int) -> Any:
        """(offset, address, name) of the buffers of a structure, and of those in it."""
        for name, kind in task._fields_:
            offset, value = start + getattr(type(task), name).offset, getattr(task, name)
            if isinstance(value, ctypes.Structure):
                yield from self.pointers(value, offset)
            elif kind is ctypes.c_void_p and value:
                yield offset, value, name


def record(path: Path) -> int:
    """A spread of small reads, at both word sizes and with all a read may need; and the gradient of their inputs."""
    made: list[Case] = []

    @seed(1)
    @settings(random, max_examples=120, phases=[Phase.generate], database=None)
    @given(case=cases())
    def collect(case: Case) -> None:
        made.append(case)

    collect()
    with path.open("wb") as file, pytest.MonkeyPatch.context() as monkeypatch, instructions(0):
        recorder = Recorder(file, monkeypatch)
        for i, case in enumerate(made):
            out = case.fused(EVERYTHING if i % 2 else Keep())
            y, share = (
                None if v is None else case.geometry.restore(v, case.geometry.shape(case.x, 1)[:-1])
                for v in (out.y, out.inside)
            )
            fused.passed(y, share, y if i % 3 else None, torch.tensor(0.7), case.geometry)
            inputs = case.column.macro.inputs
            pads = () if isinstance(case.geometry, Dense) else tuple((i % 3, 1) for _ in case.geometry.kernel)
            x = case.x if i % 4 < 2 or not pads else case.x.movedim(1, -1).contiguous().movedim(-1, 1)
            scale, zero = torch.tensor(0.7), torch.tensor(0.3)
            real = Quantised(x, scale, zero, inputs.low, inputs.high, rounded=bool(i % 2), pads=pads)
            words = fused.words_of(real, case.column.macro, case.geometry)
            grad = torch.randn(words.codes().shape, generator=torch.Generator().manual_seed(i))
            real.backward(grad, inputs.word, case.geometry)
    return recorder.calls


def build(sanitizers: str, into: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    probe = into.with_suffix(".probe.cpp")
    probe.write_text("int main() { return 0; }\n")
    tried = subprocess.run([compiler, f"-fsanitize={sanitizers}", probe, "-o", into], capture_output=True, text=True)
    if tried.returncode or subprocess.run([into], capture_output=True).returncode:
        pytest.skip(f"no runtime of -fsanitize={sanitizers}")
    command = [compiler, f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", *FLAGS, HERE / "kernel_main.cpp"]
    done = subprocess.run([*command, "-o", into], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")  # the type checker does
@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
def test_the_kernel_stays_within_its_buffers(tmp_path: Path) -> None:
    build("address,undefined", tmp_path / "kernel")
    calls = record(tmp_path / "calls")
    done = subprocess.run([tmp_path / "kernel", tmp_path / "calls"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{calls} calls, 0 differ\n"
    assert calls > 300
