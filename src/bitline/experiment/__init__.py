"""Whole experiments: their YAML, and the walk that carries one out."""

from bitline.experiment.config import Experiment, load, parse
from bitline.experiment.folder import clear, slug
from bitline.experiment.harden import HardenRun
from bitline.experiment.ladder import Placing
from bitline.experiment.placing import centred, few, place_paths, share_directions
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
    "centred",
    "clear",
    "few",
    "load",
    "parse",
    "place_paths",
    "share_directions",
    "slug",
    "written",
]
