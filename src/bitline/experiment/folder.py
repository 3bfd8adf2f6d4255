"""The folder of an experiment: whose it is, what is written there when it ends, what `--fresh` removes."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from bitline.configuration import to_yaml
from bitline.evaluate import Result
from bitline.experiment.config import Experiment
from bitline.files import digest, write_atomic
from bitline.macro import Macro
from bitline.methods import OnMacro
from bitline.report import write_csv, write_html
from bitline.version import version

LONG = 80  # letters of a name; file systems take 255
WRITTEN = {  # what a run and its kin leave in a folder, beside its subfolders
    "experiment": "yaml",
    "result": "json",
    "rows": "csv",
    "run": "json",
    "report": "html",
    "sweep": "json csv html",
    "search": "json csv svg yaml",
    "place": "json",
    "hardened": "json html yaml",
    "hardened-bits": "json csv svg",
}


def record(started: float) -> dict[str, Any]:
    """How, when and where something was carried out: what a result itself does not hold."""
    return {
        "command": shlex.join(["bitline", *sys.argv[1:]]),
        "seconds": round(time.time() - started, 1),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        "host": platform.node(),
        "versions": {
            "bitline": version(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
        },
    }


def finish(result: Result, out: Path, started: float) -> None:
    """Write result.json, rows.csv, run.json and the report."""
    run = record(started)
    result.save(out / "result.json")
    write_csv(result, out / "rows.csv")
    write_atomic(out / "run.json", json.dumps(run, indent=2) + "\n")
    write_html(result, out / "report.html", run)


def clear(out: Path) -> None:
    """Remove what a run left in a folder, and nothing else."""
    for name in ("train", "answers", "sweep", "search", "place"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name, endings in WRITTEN.items():
        for ending in endings.split():
            with suppress(OSError):
                (out / f"{name}.{ending}").unlink()


def claim(out: Path, experiment: Experiment) -> None:
    """Take the folder for this experiment, whatever its methods, its test and its search.

    Raises ValueError if it holds another one, or cannot be written.
    """
    training = experiment.model_dump(mode="json", exclude={"title", "methods", "test", "search"})
    mine = to_yaml(training)
    path = out / "experiment.yaml"
    try:
        if path.exists() and path.read_text(encoding="utf-8") != mine:
            raise ValueError(f"{out} holds another experiment ({path}): choose another --out, or --fresh to start over")
        write_atomic(path, mine)
    except OSError as error:
        raise ValueError(f"output folder {out} cannot be written: {error.strerror or error}") from None


def whose(macro: Macro, method: OnMacro) -> str:
    """The folder of what a method trains on a macro: methods that differ in anything have their own."""
    return f"{slug(f'{macro.name} {method.title}')}-{digest(method.model_dump_json(exclude={'seed'}))}"


def slug(name: str) -> str:
    """A name of a file or folder; long ones are cut, and stay different."""
    found = "".join(c if c.isalnum() or c == "_" else "-" for c in name.lower()).strip("-")
    return found if len(found) <= LONG else f"{found[:LONG]}-{digest(name)}"
