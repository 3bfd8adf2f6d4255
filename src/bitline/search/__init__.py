"""Search: bits of inputs, weights, cells and converters, layer by layer, on the front of accuracy against energy."""

from bitline.search.allocate import search
from bitline.search.finals import Goal
from bitline.search.found import Candidate, Searched, Verified
from bitline.search.setting import Setting
from bitline.search.space import Space
from bitline.search.surrogate import Rise, Surrogate
from bitline.verbs import verb

__all__ = ["Candidate", "Goal", "Rise", "Searched", "Setting", "Space", "Surrogate", "Verified", "search"]

verb(__name__)
