"""Request and response schemas of `POST /v1/rerank`, which Jina, Cohere and vLLM have in common.

Source: `RerankRequest` and `RerankResponse` in vllm.entrypoints.pooling.scoring.protocol (0.32.0), Jina's Reranker
API, and Cohere's `POST /v2/rerank`. OpenAI has no such endpoint.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from domain.errors import InvalidRequestError
from domain.openai.common import check_truncation, new_id
from domain.openai.field import describe
from domain.requests import ScoreRequest
from domain.results import ScoreResult

MAX_DOCUMENTS = 10_000

TokenLimit = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Truncation = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]


class TextPart(msgspec.Struct, frozen=True, kw_only=True, tag="text", tag_field="type"):
    """A part of a document's content."""

    text: str


class TextObject(msgspec.Struct, frozen=True, kw_only=True):
    """A query or document as an object: Jina's has `text`, vLLM's `content`. Other keys are the client's own."""

    text: str | None = None
    content: list[TextPart] | None = None


Text = str | TextObject


class ScoringFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields that `/v1/rerank` and `/v1/score` share."""

    model: Annotated[
        str | None,
        describe(
            "Name or alias of the reranking model, or of the embedding model, which scores by the cosine of its"
            " vectors. Without it the reranking model if one is served, else the embedding model."
        ),
    ] = None
    max_tokens_per_doc: Annotated[
        TokenLimit | None, describe("Truncate documents to this number of tokens; 0 for no limit.")
    ] = None
    max_tokens_per_query: Annotated[
        TokenLimit | None, describe("Truncate queries to this number of tokens; 0 for no limit.")
    ] = None
    truncate_prompt_tokens: Annotated[
        Truncation | None,
        describe(
            "Truncate query and document together to this number of tokens; -1 for the context length. An"
            " embedding model reads them separately.",
        ),
    ] = None
    instruction: Annotated[
        str | None,
        describe("What makes a document relevant, for models that take an instruction."),
    ] = None
    use_activation: Annotated[
        bool | None,
        describe("`false` for the model's raw scores, before its activation function."),
    ] = None
    priority: Annotated[int | None, describe("Accepted and ignored.", effect="none")] = None
    user: Annotated[str | None, describe("Accepted and ignored.", effect="none")] = None

    def request(self, queries: list[str], documents: list[str]) -> ScoreRequest:
        """The domain's request for some pairs.

        Raises:
            InvalidRequestError: an invalid `truncate_prompt_tokens`.
        """
        check_truncation(self.truncate_prompt_tokens)
        return ScoreRequest(
            queries=queries,
            documents=documents,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            max_tokens_per_query=self.max_tokens_per_query or None,
            max_tokens_per_doc=self.max_tokens_per_doc or None,
            instruction=self.instruction,
            use_activation=self.use_activation,
        )


class RerankBody(ScoringFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a rerank request."""

    query: Annotated[Text, describe('What the documents should answer: a text, or `{"text": …}`.')]
    documents: Annotated[
        list[Text], describe('Texts, or objects such as `{"text": …}`; at most 10,000, split internally.')
    ]
    top_n: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None, describe("Return only so many of the best; 0 for all.")
    ] = None
    return_documents: Annotated[
        bool | None, describe("`false` leaves the texts out of the results; the default is `true`.")
    ] = None

    def to_request(self) -> ScoreRequest:
        """Convert to the domain's request.

        Raises:
            InvalidRequestError: an empty query, no documents or too many, an object without text.
        """
        query = text_of(self.query, "query")
        if not query:
            raise InvalidRequestError("'query' must not be empty.", param="query", code="empty_input")
        return self.request([query], texts_of(self.documents, "documents"))


class RerankUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all queries and documents; both numbers are equal, because nothing is generated."""

    prompt_tokens: int
    total_tokens: int


class RerankDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a document."""

    text: str


class RerankResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One document and its score."""

    index: int
    """Position of the document in the request."""
    document: RerankDocument | None = None
    relevance_score: float


class RerankResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response."""

    id: str
    model: str
    usage: RerankUsage
    results: list[RerankResult]
    """The most relevant first; of equal ones, the first in the request."""


def rerank_response(request: ScoreRequest, result: ScoreResult, body: RerankBody, model: str) -> RerankResponse:
    """The response for the scores of a request."""
    order = sorted(range(len(result.scores)), key=lambda index: -result.scores[index])
    with_texts = body.return_documents is not False
    results = [
        RerankResult(
            index=index,
            document=RerankDocument(text=request.documents[index]) if with_texts else None,
            relevance_score=result.scores[index],
        )
        for index in order[: body.top_n or None]
    ]
    usage = RerankUsage(prompt_tokens=result.prompt_tokens, total_tokens=result.prompt_tokens)
    return RerankResponse(id=new_id("rerank"), model=model, usage=usage, results=results)


def texts_of(values: Sequence[Text], param: str) -> list[str]:
    """The texts of queries or documents.

    Raises:
        InvalidRequestError: there are none, too many, or objects without text.
    """
    if not values:
        raise InvalidRequestError(f"'{param}' must not be an empty array.", param=param, code="empty_array")
    if len(values) > MAX_DOCUMENTS:
        raise InvalidRequestError(
            f"'{param}' has {len(values)} items; at most {MAX_DOCUMENTS} are allowed. Send them in several "
            "requests.",
            param=param,
            code="array_above_max_length",
        )
    return [text_of(value, f"{param}[{position}]") for position, value in enumerate(values)]


def text_of(value: Text, param: str) -> str:
    """The text of a query or document.

    Raises:
        InvalidRequestError: it is an object without text.
    """
    if isinstance(value, str):
        return value
    if value.text is not None:
        return value.text
    if value.content:
        return "\n".join(part.text for part in value.content)
    raise InvalidRequestError(
        f"'{param}' has no text. Send a string, or an object with 'text'.",
        param=param,
        code="missing_required_parameter",
    )
