"""Whole experiments: their YAML, and the walk that carries one out."""

from bitline.experiment.config import Experiment, load, parse
from bitline.experiment.folder import clear, slug
from bitline.experiment.harden import HardenRun
from bitline.experiment.ladder import Placing
from bitline.experiment.placing import few, place_paths
from bitline.experiment.run import Run
from bitline.experiment.search import SearchRun, allocated, written
from bitline.experiment.sweep import SweepRun

__all__ = [
    "Experiment",
    "HardenRun",
    "Placing",
    "Run",
    "SearchRun",
    "SweepRun",
    "allocated",
    "clear",
    "few",
    "load",
    "parse",
    "place_paths",
    "slug",
    "written",
]
