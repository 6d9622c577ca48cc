"""Request and response schemas of vLLM's `POST /v1/score`.

Source: `ScoreRequest` and `ScoreResponse` in vllm.entrypoints.pooling.scoring.protocol (0.32.0).
"""

import time
from typing import Annotated, Literal

import msgspec

from domain.errors import InvalidRequestError
from domain.openai.common import Usage, new_id
from domain.openai.field import describe
from domain.openai.rerank import ScoringFields, Text, texts_of
from domain.requests import ScoreRequest
from domain.results import ScoreResult

NAMES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
"""vLLM's names for the two lists, under all of which clients know them."""

Texts = Text | list[Text] | None


class ScoreBody(ScoringFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a score request: two lists under one of four pairs of names."""

    text_1: Annotated[
        Texts, describe("One text to compare with all of `text_2`, or as many as there; at most 10,000.")
    ] = None
    text_2: Annotated[Texts, describe("The texts to score.")] = None
    queries: Annotated[Texts, describe("Another name of `text_1`.")] = None
    documents: Annotated[Texts, describe("Another name of `text_2`, beside `queries`.")] = None
    items: Annotated[Texts, describe("Another name of `text_2`, beside `queries`.")] = None
    data_1: Annotated[Texts, describe("Another name of `text_1`.")] = None
    data_2: Annotated[Texts, describe("Another name of `text_2`.")] = None

    @property
    def names(self) -> tuple[str, str]:
        """The names under which this body has the two lists.

        Raises:
            InvalidRequestError: one is missing, or there are more than two.
        """
        given = {name for pair in NAMES for name in pair if getattr(self, name) is not None}
        for pair in NAMES:
            if given == set(pair):
                return pair
        for first, second in NAMES:
            if len(given) == 1 and given <= {first, second}:
                (missing,) = {first, second} - given
                raise InvalidRequestError(
                    f"Missing required parameter: '{missing}'.", param=missing, code="missing_required_parameter"
                )
        if not given:
            raise InvalidRequestError(
                "Missing required parameter: 'text_1'.", param="text_1", code="missing_required_parameter"
            )
        listed = "; ".join(f"'{first}' and '{second}'" for first, second in NAMES)
        raise InvalidRequestError(
            f"Send two lists of texts under one of these pairs of names: {listed}.",
            param=min(given),
            code="invalid_value",
        )

    def to_request(self) -> ScoreRequest:
        """Convert to the domain's request.

        Raises:
            InvalidRequestError: wrong names, or lists of lengths that do not match.
        """
        first, second = self.names
        queries, documents = self._texts(first), self._texts(second)
        if len(queries) not in (1, len(documents)):
            raise InvalidRequestError(
                f"'{first}' has {len(queries)} items and '{second}' has {len(documents)}. '{first}' must have "
                f"one, or as many as '{second}'.",
                param=first,
                code="invalid_value",
            )
        return self.request(queries, documents)

    def _texts(self, name: str) -> list[str]:
        value = getattr(self, name)
        return texts_of(value if isinstance(value, list) else [value], name)


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The score of one pair."""

    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    """In the order of the pairs."""
    usage: Usage


def score_response(result: ScoreResult, model: str) -> ScoreResponse:
    """The response for the scores of a request."""
    tokens = result.prompt_tokens
    return ScoreResponse(
        id=new_id("score"),
        created=int(time.time()),
        model=model,
        data=[Score(index=index, score=score) for index, score in enumerate(result.scores)],
        usage=Usage(prompt_tokens=tokens, completion_tokens=0, total_tokens=tokens),
    )
