"""The first request of an engine, which takes longer than any other and is better not a user's."""

import contextlib

import msgspec

from domain.port import InferenceBackend, ModelCard, RequestContext
from domain.requests import EmbeddingRequest, GenerationRequest
from domain.roles import Role
from domain.sampling import SamplingParameters

WARM_UP = RequestContext(request_id="warm-up")


class Warmth(msgspec.Struct, frozen=True):
    """What a first request shows."""

    card: ModelCard
    """With the length of the vectors, of an embedder."""
    vector: bytes
    """The vector of a text that is always the same; nothing of a generator."""


async def warm_up(backend: InferenceBackend, card: ModelCard) -> Warmth:
    """Put one request through an engine; learn the length of its vectors on the way."""
    if card.role is Role.EMBED:
        result = await backend.embed(EmbeddingRequest(inputs=["warm up"]), WARM_UP)
        return Warmth(msgspec.structs.replace(card, dimensions=result.dimensions), result.vectors)
    request = GenerationRequest(prompt="Warm up", sampling=SamplingParameters(max_tokens=2, temperature=0.0))
    async with contextlib.aclosing(backend.generate(request, WARM_UP)) as events:
        async for _ in events:
            pass
    return Warmth(card, b"")
