"""Configurations as they are written: short forms made whole, and what is wrong told by key.

``Frozen`` is a model that does not change, ``Value`` one that keeps what it works out as well. ``Written`` takes a bare
name for ``{kind: name}`` and no truth value for a number. ``explain`` tells a ``ValidationError`` in the words of the
file: the path of the key as it was written, what would be accepted there.
"""

from bitline.configuration.errors import refused, within
from bitline.configuration.frozen import Frozen, Value
from bitline.configuration.telling import explain, near
from bitline.configuration.types import Changes, OneOrMany
from bitline.configuration.written import Written, from_yaml, lay, to_yaml, whole

__all__ = [
    "Changes",
    "Frozen",
    "OneOrMany",
    "Value",
    "Written",
    "explain",
    "from_yaml",
    "lay",
    "near",
    "refused",
    "to_yaml",
    "whole",
    "within",
]
