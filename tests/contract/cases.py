"""The backends under contract, and what the tests need to know of each."""

from collections.abc import Awaitable, Callable

import msgspec

from domain.backend import (
    GenerationDelta,
    GenerationRequest,
    GenerationUsage,
    InferenceBackend,
    RequestContext,
    SamplingParameters,
)


class Case(msgspec.Struct, kw_only=True):
    """One backend of one role."""

    name: str
    backend: InferenceBackend
    tokenize: Callable[[str], list[int]]
    """Token ids as the model itself would make them."""
    vocabulary: int
    max_model_len: int
    running: Callable[[], Awaitable[int]]
    """Requests that the engine itself says it is working on."""


class Generated(msgspec.Struct, kw_only=True):
    """A generation heard to its end."""

    deltas: list[GenerationDelta]
    usage: GenerationUsage

    def text(self, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas if delta.index == index)


CONTEXT = RequestContext(request_id="contract")


async def generate(
    case: Case, prompt: str | list[int], *, echo: bool = False, stream: bool = True, **sampling
) -> Generated:
    """Generate to the end; checks what must hold of every event stream."""
    parameters = SamplingParameters(**{"max_tokens": 8, "temperature": 0.0} | sampling)
    request = GenerationRequest(prompt=prompt, sampling=parameters, echo=echo, stream=stream)
    events = [event async for event in case.backend.generate(request, CONTEXT)]
    *deltas, usage = events
    assert isinstance(usage, GenerationUsage)
    assert all(isinstance(delta, GenerationDelta) for delta in deltas)
    for index in range(parameters.n):
        reasons = [delta.finish_reason for delta in deltas if delta.index == index]
        assert reasons[-1] is not None, "the last delta of a choice tells why it ended"
        assert all(reason is None for reason in reasons[:-1]), "and no delta before it does"
    return Generated(deltas=deltas, usage=usage)
