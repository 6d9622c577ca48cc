"""`POST /v1/rerank` and `POST /v1/score`: the relevance of documents to a query."""

import contextlib
import math
from collections.abc import Iterator

from litestar.types import ASGIApp

from app.http.codec import BodyDecoder
from app.http.inference import call_all
from app.http.requests import AnyRequest, json_response, read_body, service_of
from domain.catalog import ServedModel
from domain.errors import BackendFailedError, InvalidRequestError
from domain.openai.rerank import RerankBody, rerank_response
from domain.openai.score import ScoreBody, score_response
from domain.requests import ScoreRequest
from domain.results import ScoreResult
from domain.roles import Role

rerank_decoder = BodyDecoder(RerankBody)
score_decoder = BodyDecoder(ScoreBody)
SCORING_ROLES = (Role.RERANK, Role.EMBED)
"""The roles whose models score documents, the better one first."""


async def rerank(request: AnyRequest) -> ASGIApp:
    """Sort documents by their relevance to a query."""
    body = await read_body(request, rerank_decoder)
    model = _model(request, body.model, "v1/rerank")
    asked = body.to_request()
    result = await _scores(request, model, asked)
    return json_response(rerank_response(asked, result, body, _name(model, body.model)))


async def score(request: AnyRequest) -> ASGIApp:
    """Score pairs of texts."""
    body = await read_body(request, score_decoder)
    model = _model(request, body.model, "v1/score")
    asked = body.to_request()
    with _field_name(body.names[1]):
        result = await _scores(request, model, asked)
    return json_response(score_response(result, _name(model, body.model)))


def _model(request: AnyRequest, name: str | None, endpoint: str) -> ServedModel:
    return service_of(request).catalog.resolve(name, *SCORING_ROLES, endpoint=endpoint)


async def _scores(request: AnyRequest, model: ServedModel, asked: ScoreRequest) -> ScoreResult:
    """Score all pairs.

    Raises:
        BackendFailedError: a score is not a finite number, which JSON can't represent.
        InferenceError: what `call_all` raises.
    """
    (result,) = await call_all(request, model, [asked])
    if not all(map(math.isfinite, result.scores)):
        raise BackendFailedError(
            f"The model '{model.name}' computed a score that is not a finite number, which happens if its numbers "
            "overflow. Another data type may help, such as --dtype bfloat16 among the engine's flags."
        )
    return result


def _name(model: ServedModel, asked: str | None) -> str:
    return model.name or asked or ""


@contextlib.contextmanager
def _field_name(documents: str) -> Iterator[None]:
    """Give an error about the documents the name that their field has in the request."""
    try:
        yield
    except InvalidRequestError as error:
        if error.param == "documents":
            error.param = documents
        raise
