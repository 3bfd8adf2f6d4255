"""The shipped samples of an 8T SRAM column, made again: CIRCUIT.parquet and CIRCUIT-dice.parquet.

    BITLINE_DATA=… BITLINE_NETWORKS=… python examples/sram_samples.py FOLDER [CIRCUIT]

CIRCUIT is sram-8t-pwm or sram-8t-compact. Inputs are 4-bit activations of ResNet20 on CIFAR-10 in patches of 64 rows,
weights the bits of its 4-bit weights, chosen so that their sums fill the range evenly, as far as there are such. Some
12 minutes of two cores, or 2; what an interrupted run simulated is not simulated again.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bitline.circuits.spice import Circuit, Simulator, characterize
from bitline.data import Cifar10
from bitline.macro import Macro
from bitline.networks import ResNet
from bitline.nn import calibrate, convert, layers
from bitline.samples import Samples

COMMAND = "python examples/sram_samples.py FOLDER"


@dataclass(frozen=True)
class Tables:
    """What is simulated: points without mismatch, ``each`` of every of ``bins`` of sums up to ``reach`` counts, and of
    each of ``sums`` one pattern on ``dice`` dies."""

    reach: int
    bins: int
    each: int
    sums: tuple[int, ...]
    dice: int


CIRCUITS = {
    "sram-8t-pwm": Tables(192, 24, 512, tuple(range(12, 192, 24)), 1024),  # 10 000 points and more
    "sram-8t-compact": Tables(144, 18, 64, tuple(range(8, 128, 16)), 256),  # beyond the converter, where sums still go
}


def vectors(circuit: Circuit, images: int = 128, candidates: int = 80_000) -> tuple[np.ndarray, np.ndarray]:
    """(x, w), int8, (n, 64): patches of real activations against columns of weight bits, from all layers that fill
    64 rows."""
    macro = Macro.model_validate(
        {
            "name": "vectors",
            "rows": circuit.rows,
            "columns": 64,
            "inputs": {"kind": "unsigned", "bits": 4, "digit_bits": 4},
            "weights": {"kind": "twos_complement", "bits": 4, "cell_bits": 1},
        }
    )
    net = convert(ResNet(depth=20, weights="resnet20-cifar10").build().eval(), macro, skip=["conv1", "fc"])
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in Cifar10().moments())
    seen = (Cifar10().test()[: 2 * images].images.float() / 255 - mean) / deviation
    calibrate(net, [seen[:images]])
    rng, found = np.random.default_rng(0), []
    for layer in layers(net).values():
        inputs, outputs, _ = layer.matrix_shape
        if inputs < circuit.rows:
            continue
        got: list[torch.Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, given, got=got: got.append(given[0].detach()))
        with torch.no_grad():
            net(seen[images:])
            hook.remove()
            codes = layer.input_quantizer(got[0])[0]
            pads = (layer.padding[1], layer.padding[1], layer.padding[0], layer.padding[0])
            rows = layer.geometry.rows(torch.nn.functional.pad(codes, pads)).reshape(-1, inputs).numpy().astype(np.int8)
            matrix = layer.geometry.matrix(layer.weight_quantizer(layer.weight)[0]).numpy().astype(np.int64)
        row, output = rng.integers(0, len(rows), candidates), rng.integers(0, outputs, candidates)
        tile, bit = rng.integers(0, inputs // circuit.rows, candidates), rng.integers(0, 4, candidates)
        span = tile[:, None] * circuit.rows + np.arange(circuit.rows)
        x, w = rows[row[:, None], span], (matrix[output[:, None], span] >> bit[:, None]) & 1
        found.append(np.stack([x, w.astype(np.int8)], axis=1))
    pairs = np.concatenate(found)
    rng.shuffle(pairs)
    return pairs[:, 0], pairs[:, 1]


def stratified(x: np.ndarray, w: np.ndarray, bins: int, each: int, counts: int) -> np.ndarray:
    """Rows whose sums fill 0 … ``counts`` evenly: up to ``each`` different ones from each of ``bins``."""
    place = np.einsum("nr,nr->n", x, w, dtype=np.int64) * bins // counts
    found = []
    for b in range(bins):
        rows = np.flatnonzero(place == b)[: 2 * each]
        first = np.unique(np.concatenate([x[rows], w[rows]], axis=1), axis=0, return_index=True)[1]
        found.append(rows[np.sort(first)][:each])
    return np.concatenate(found)


def main(folder: Path, name: str = "sram-8t-pwm") -> None:
    """Write both tables."""
    circuit, simulator, asked = Circuit.load(name), Simulator(cache=folder / "cache"), CIRCUITS[name]
    command = COMMAND if name == "sram-8t-pwm" else f"{COMMAND} {name}"
    x, w = vectors(circuit)
    sums = np.einsum("nr,nr->n", x, w, dtype=np.int64)
    picked = stratified(x, w, asked.bins, asked.each, asked.reach)
    np.random.default_rng(1).shuffle(picked)
    told = 0

    def done(*_: object) -> None:
        nonlocal told
        told += 1
        if told % 500 == 0:
            print(f"{told} points", flush=True)

    print(f"{len(picked)} points without mismatch, {len(asked.sums)} × {asked.dice} with", flush=True)
    still = characterize(circuit, x[picked], w[picked], simulator, command=command, done=done)
    save(still, folder / f"{name}.parquet")
    left = np.setdiff1d(np.arange(len(x)), picked)
    chosen = np.array([left[np.argmin(np.abs(sums[left] - total))] for total in asked.sums])
    pattern, chips = np.repeat(chosen, asked.dice), np.tile(np.arange(asked.dice), len(asked.sums))
    dice = characterize(circuit, x[pattern], w[pattern], simulator, chips=chips, command=command, done=done)
    save(dice, folder / f"{name}-dice.parquet")


def save(samples: Samples, path: Path) -> None:
    """As a shipped table: vectors as bytes, what does not change left to the provenance."""
    name = next(iter(samples.conditions))
    kept = {name: samples.conditions[name]}
    units = {key: unit for key, unit in samples.units.items() if key in (*kept, "ideal", "code")}
    Samples(
        ideal=samples.ideal,
        code=samples.code,
        chip=samples.chip,
        column=samples.column,
        x=samples["x"].astype(np.int8),
        w=samples["w"].astype(np.int8),
        conditions=kept,
        units=units,
        provenance=samples.provenance,
    ).save(path)
    print(f"{path}: {len(samples)} rows, {path.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
