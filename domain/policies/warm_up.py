"""Warm-up: sends an engine its first request, which is the slowest, before users' requests arrive."""

from collections.abc import Mapping
from typing import Any

import msgspec

from domain.port import InferenceBackend, ModelCard, RequestContext
from domain.requests import EmbeddingRequest, GenerationRequest, Request, ScoreRequest
from domain.results import EmbeddingResult
from domain.roles import Role
from domain.sampling import SamplingParameters

CONTEXT = RequestContext(request_id="warm-up")
WARM_UP: Mapping[Role, Request[Any]] = {
    Role.EMBED: EmbeddingRequest(inputs=["warm up"]),
    Role.GENERATE: GenerationRequest(prompt="Warm up", sampling=SamplingParameters(max_tokens=2, temperature=0.0)),
    Role.RERANK: ScoreRequest(queries=["warm up"], documents=["warm up"]),
}


class WarmUpResult(msgspec.Struct, frozen=True):
    """Result of the warm-up request."""

    card: ModelCard
    """For an embedding model, with the length of its vectors."""
    vector: bytes
    """The vector of a fixed text, to compare models by; empty for models without vectors."""


async def warm_up(backend: InferenceBackend, card: ModelCard) -> WarmUpResult:
    """Send one request to an engine, and add the length of its vectors to the card."""
    result = await backend.call(WARM_UP[card.role], CONTEXT)
    if isinstance(result, EmbeddingResult):
        return WarmUpResult(msgspec.structs.replace(card, dimensions=result.dimensions), result.vectors)
    return WarmUpResult(card, b"")
