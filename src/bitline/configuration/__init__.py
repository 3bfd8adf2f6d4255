"""Configurations as they are written: short forms made whole, and what is wrong told by key.

``Written`` is a model that takes a bare name for ``{kind: name}`` and no truth value for a number; ``Value`` is a
frozen one that keeps what it works out. ``explain`` tells a ``ValidationError`` in the words of the file: the path of
the key as it was written, what would be accepted there.
"""

from bitline.configuration.errors import refused, within
from bitline.configuration.telling import explain, near
from bitline.configuration.types import Changes, OneOrMany
from bitline.configuration.written import Value, Written, from_yaml, lay, to_yaml, whole

__all__ = [
    "Changes",
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
