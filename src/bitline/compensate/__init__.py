"""Digital side paths beside the layers on a macro: the paper's compensation, its rivals, and what they cost."""

from typing import Annotated

from pydantic import Field

from bitline.compensate.attach import attach, remove, sides
from bitline.compensate.centre import Centred, centre
from bitline.compensate.correctnet import CorrectNet
from bitline.compensate.overhead import Overhead, overhead
from bitline.compensate.patch import Patch, Patching, patch
from bitline.compensate.path import Path, Trained
from bitline.compensate.rivals import LowRank, Sparse, Vectors
from bitline.compensate.trim import Trim, Trimming

AnyPath = Annotated[CorrectNet | LowRank | Vectors | Sparse | Centred | Trim | Patch, Field(discriminator="kind")]

__all__ = [
    "AnyPath",
    "Centred",
    "CorrectNet",
    "LowRank",
    "Overhead",
    "Patch",
    "Patching",
    "Path",
    "Sparse",
    "Trained",
    "Trim",
    "Trimming",
    "Vectors",
    "attach",
    "centre",
    "overhead",
    "patch",
    "remove",
    "sides",
]
