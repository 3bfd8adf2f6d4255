"""Searchers: agents that learn where side paths pay, and oracles to compare them with."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitline.configuration import explain
from bitline.place.searchers.oracles import Exhaustive, Greedy, Random
from bitline.place.searchers.ppo import Ppo
from bitline.place.searchers.reinforce import Reinforce

AnySearcher = Annotated[Reinforce | Ppo | Random | Greedy | Exhaustive, Field(discriminator="kind")]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")
    searcher: AnySearcher


def read_searcher(value: Any, evaluations: int | None = None) -> AnySearcher:
    """A searcher from its kind, or from a mapping with more; raises ValueError saying what there is."""
    given = {"kind": value} if isinstance(value, str) else value
    if isinstance(given, dict) and evaluations is not None:
        given = given | {"evaluations": evaluations}
    try:
        return _Asked.model_validate({"searcher": given}).searcher
    except ValidationError as error:
        raise ValueError(explain(error, _Asked, "the search")) from None


__all__ = ["AnySearcher", "Exhaustive", "Greedy", "Ppo", "Random", "Reinforce", "read_searcher"]
