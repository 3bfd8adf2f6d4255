"""Run benchmarks by name, or all that take minutes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import torch

NAMES = {
    "folded": "Folded plan against plain torch",
    "fused": "Fused plan against plain torch",
    "gpu": "Fused plan on a GPU",
    "peers": "Peers",
    "spice": "Behavioural model against ngspice",
    "spice:points": "Points that a behavioural model needs",
    "digits": "Handwritten digits, the longer setting",
    "s0": "Error-aware against Gaussian training on a macro from ngspice",
    "s0_resnet20": "Error-aware against Gaussian training, ResNet20",
    "s1": "Training for analog memory, digits",
    "untouched": "A Wide ResNet untouched on analog memory (A1.5)",
    "s3": "Log-normal weights: suppression, compensation and rivals",
    "centred": "Networks as given, inputs centred",
    "search": "Bits layer by layer: LeNet-5, log-normal weights",
    "harden": "From a network to one that holds: LeNet-5, log-normal weights, 8 bits, signed inputs",
    "depth": "Log-normal weights by depth, networks untouched (A3.5)",
    "placement": "Where LeNet-5's compensators pay: searchers against every placement",
    "rram": "ResNet20 on measured RRAM cells, by age and temperature",
    "dnat": "D-NAT: a tie, another chip, its cost",
    "dnat_networks": "D-NAT on a table with a pedestal, short settings",
    "measurements": "Measurements that a network's accuracy needs",
    "ranges": "Input ranges: rounding against clipping, one bound and two",
    "signed": "E-PACT against PACT, inputs of both signs",
    "memory": "Memory of an evaluation",
    "crossbar": "Exact IR drop",
}
LONG = {  # by name only: some take half an hour of a core a seed
    "s0_resnet20:seeds": "Error-aware against Gaussian training, ResNet20, three seeds",
    "dnat_networks:resnet20": "D-NAT on a table with a pedestal, ResNet20, three seeds",
    "dnat_networks:vgg8": "D-NAT on a table with a pedestal, VGG8",
    "dnat_networks:vgg16": "D-NAT on a table with a pedestal, VGG16",
    "dnat:cost": "D-NAT: what a training step costs",
}
RESULTS = Path(__file__).with_name("RESULTS.md")


def main(names: list[str]) -> None:
    """Print each table and keep it in RESULTS.md, one section a benchmark."""
    titles = NAMES | LONG
    unknown = [name for name in names if name not in titles]
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(titles)}")
    for name in names or NAMES:
        print(f"## {titles[name]}\n", flush=True)
        module, _, part = name.partition(":")
        text = getattr(import_module(f"benchmarks.{module}"), part or "run")()
        print(text, flush=True)
        sections = _sections()  # as they are now: another benchmark may have ended meanwhile
        sections[titles[name]] = f"`{_command(name)}` · {_machine()}\n\n{text}"
        body = "\n\n".join(f"## {title}\n\n{content}" for title, content in sections.items())
        RESULTS.write_text(f"# Benchmark results\n\n{body}\n", encoding="utf-8")


def _sections() -> dict[str, str]:
    if not RESULTS.exists():
        return {}
    parts = RESULTS.read_text(encoding="utf-8").split("\n## ")[1:]
    return {title: content.strip() for title, _, content in (part.partition("\n") for part in parts)}


def _command(name: str) -> str:
    threads = os.environ.get("OMP_NUM_THREADS")
    return " ".join([*([f"OMP_NUM_THREADS={threads}"] if threads else []), "python -m benchmarks", name])


def _machine() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    place = commit.stdout.strip() or "none"
    threads = torch.get_num_threads()
    return f"{cpu}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}, commit {place}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


main(sys.argv[1:])
