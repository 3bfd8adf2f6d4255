"""Placement: beside which layers side paths stand and how wide they are, under a budget; searched for, with oracles."""

from bitline.place.budget import Budget
from bitline.place.directions import Directions, LayerDirections, directions
from bitline.place.episode import Episode
from bitline.place.placing import place, search, sizes_of
from bitline.place.result import Placed, Tried
from bitline.place.searchers import AnySearcher, Exhaustive, Greedy, Ppo, Random, Reinforce, read_searcher
from bitline.place.space import Candidate, Share, Space, early, space_of
from bitline.place.trials import Spent, Trials
from bitline.verbs import verb

__all__ = [
    "AnySearcher",
    "Budget",
    "Candidate",
    "Directions",
    "Episode",
    "Exhaustive",
    "Greedy",
    "LayerDirections",
    "Placed",
    "Ppo",
    "Random",
    "Reinforce",
    "Share",
    "Space",
    "Spent",
    "Trials",
    "Tried",
    "directions",
    "early",
    "place",
    "read_searcher",
    "search",
    "sizes_of",
    "space_of",
]

verb(__name__)
