"""What each of two ranks does for test_ranks.py: torchrun starts this file, and every rank writes what it saw."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
import yaml
from torch import distributed, nn
from typer.testing import CliRunner

from bitline.cli import app
from bitline.encode import TwosComplementInput
from bitline.macro import Macro
from bitline.methods import ErrorAware
from bitline.nn import calibrate, convert, silicon
from bitline.train import NonFiniteLoss, TrainConfig, checkpoint, train
from test_experiment import TINY

SAMPLES, BATCH, STEPS = 46, 8, 20  # the last batch of an epoch has 6 samples
CONTINUOUS = Macro.model_validate(
    {"name": "s1", "rows": 64, "columns": 64, "variation": {"kind": "range", "sigma": 0.1}}
)
NOISY = Macro.model_validate(
    {
        "name": "noisy",
        "rows": 64,
        "columns": 64,
        "inputs": TwosComplementInput(bits=6),
        "weights": {"kind": "differential", "bits": 5, "cell_bits": 4},
        "cell": {"errors": [{"kind": "gaussian", "sigma": 0.05}], "read_sigma": 0.05},
    }
)
DATA = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(1))


class Stop(Exception):
    """The run is cut short."""


class Watched(ErrorAware):
    """Notes the die of each step; may be cut short, or interrupted on one rank."""

    def before_step(self, model, progress):
        super().before_step(model, progress)
        CHIPS.append(repr(silicon(model).chip))
        if progress.step == STOP.get("at"):
            raise Stop
        if progress.step == STOP.get("interrupt") and progress.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)


Watched.__name__ = "ErrorAware"  # another method's checkpoint would be refused
CHIPS: list[str] = []
STOP: dict[str, int] = {}


def batches(epoch):
    """Shuffled by epoch and augmented from the global random state; the index tells the sample."""
    for index in torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch)).split(BATCH):
        x = DATA[index]
        yield x + 0.1 * torch.randn_like(x), (x.sum(1) > 0).long() + (x[:, 0] > 1).long(), index


def network(macro, norm=False):
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.2)] if norm else [nn.ReLU()]
    net = nn.Sequential(nn.Linear(6, 10), *middle, nn.Linear(10, 3), nn.Linear(3, 3))
    net[-1].weight.requires_grad_(False)
    return calibrate(convert(net, macro), [DATA])


def trained(macro, out=None, norm=False, source=batches, **config):
    """(loss of each step, weights, dies) of a run."""
    CHIPS.clear()
    settings = {"steps": STEPS, "lr": 0.05, "log_every": 1, "checkpoint_every": 3, "accumulate": 2, "clip": 1.0}
    model = network(macro, norm)
    if distributed.is_initialized():
        model[0].bias.data += distributed.get_rank()  # every rank starts as the first does, whatever it brought
    history = train(model, source, config=TrainConfig(**(settings | config)), method=Watched(), out=out, progress=False)
    return [loss for _, loss in history.series("loss")], model.state_dict(), list(CHIPS)


def poisoned(epoch):
    """The last sample of the third batch, which is the second rank's, is NaN."""
    for number, (x, y, index) in enumerate(batches(epoch)):
        if number == 2:
            x[-1, 0] = torch.nan
        yield x, y, index


def main(folder: Path) -> None:
    """Every experiment, in an order in which both ranks can follow."""
    distributed.init_process_group("gloo")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    done = CliRunner().invoke(
        app, ["train", str(folder / "tiny.yaml"), "--method", "error_aware", "--out", str(folder / "tiny")]
    )
    rank = distributed.get_rank()
    saves, save = [], checkpoint.save
    checkpoint.save = lambda *a: (saves.append(a[3]["step"]), save(*a))
    seen = {"command": [done.exit_code, done.output]}
    seen |= {"one chip": trained(CONTINUOUS, one_chip=True)[::2], "noisy": trained(NOISY, steps=1, one_chip=True)[0]}
    losses, whole, chips = trained(CONTINUOUS, folder / "whole", norm=True)
    seen |= {"losses": losses, "chips": chips, "saves": list(saves), "state": list(whole)}
    seen["weights"] = {name: value.tolist() for name, value in whole.items()}
    for name, stop in (("stopped", {"at": 11}), ("interrupted", {"interrupt": 10})):
        STOP.update(stop)
        try:
            trained(CONTINUOUS, folder / name, norm=True)
        except (Stop, KeyboardInterrupt) as error:
            seen[name] = type(error).__name__
        STOP.clear()
        distributed.barrier()
        seen[f"{name} at"] = json.loads((folder / name / "latest.json").read_text())["step"]
        distributed.barrier()
        again, state, _ = trained(CONTINUOUS, folder / name, norm=True)
        seen[f"{name} alike"] = again == losses and all(torch.equal(state[k], whole[k]) for k in whole)
    try:
        trained(CONTINUOUS, folder / "poisoned", source=poisoned)
    except NonFiniteLoss as error:
        seen["poisoned"] = str(error)
    (folder / f"rank{rank}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # not through the interpreter's end, where threads of torch may abort: "terminate called without …"
