"""The first request of an engine, which takes longer than any other and is better not a user's."""

from collections.abc import Mapping
from typing import Any

import msgspec

from domain.port import InferenceBackend, ModelCard, RequestContext
from domain.requests import EmbeddingRequest, GenerationRequest, Request
from domain.results import EmbeddingResult
from domain.roles import Role
from domain.sampling import SamplingParameters

CONTEXT = RequestContext(request_id="warm-up")
WARM_UP: Mapping[Role, Request[Any]] = {
    Role.EMBED: EmbeddingRequest(inputs=["warm up"]),
    Role.GENERATE: GenerationRequest(prompt="Warm up", sampling=SamplingParameters(max_tokens=2, temperature=0.0)),
}


class WarmUpResult(msgspec.Struct, frozen=True):
    """What a first request shows."""

    card: ModelCard
    """With the length of the vectors, of an embedder."""
    vector: bytes
    """The vector of a text that is always the same, to compare models by; empty for a generator."""


async def warm_up(backend: InferenceBackend, card: ModelCard) -> WarmUpResult:
    """Put one request through an engine; learn the length of its vectors from the answer."""
    result = await backend.call(WARM_UP[card.role], CONTEXT)
    if isinstance(result, EmbeddingResult):
        return WarmUpResult(msgspec.structs.replace(card, dimensions=result.dimensions), result.vectors)
    return WarmUpResult(card, b"")
