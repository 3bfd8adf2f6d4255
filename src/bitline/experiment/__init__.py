"""Whole experiments: their YAML, and the walk that carries one out."""

from bitline.experiment.config import Experiment, load, parse
from bitline.experiment.placing import few, place_paths
from bitline.experiment.run import Run, clear, slug
from bitline.experiment.sweep import SweepRun

__all__ = ["Experiment", "Run", "SweepRun", "clear", "few", "load", "parse", "place_paths", "slug"]
