"""Several greedy choices, which can't differ: generated once and copied.

vLLM refuses `n` above 1 at temperature 0 (`vllm.sampling_params.SamplingParams._verify_greedy_sampling`, 0.32.0);
OpenAI serves it.
"""

from collections.abc import AsyncGenerator, Iterator

import msgspec

from domain.requests import GenerationRequest
from domain.results import GenerationDelta, GenerationEvent, GenerationResult, GenerationUsage, ToolCallDelta


def greedy_copies(request: GenerationRequest) -> int:
    """How often the one choice of a greedy request is needed; 1 for all requests that vLLM takes as they are."""
    return request.sampling.n if request.sampling.temperature == 0 else 1


def single_choice(request: GenerationRequest) -> GenerationRequest:
    """The same request for one choice."""
    return msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, n=1))


async def copied_events(
    events: AsyncGenerator[GenerationEvent, None], copies: int
) -> AsyncGenerator[GenerationEvent, None]:
    """Events of one choice, as those of so many equal choices. The caller closes `events`."""
    async for event in events:
        if isinstance(event, GenerationUsage):
            yield _copied_usage(event, copies)
        else:
            for copy in _copied_delta(event, copies):
                yield copy


def copied_result(result: GenerationResult, copies: int) -> GenerationResult:
    """The result with one choice, as one with so many equal choices."""
    return GenerationResult(
        choices=[copy for choice in result.choices for copy in _copied_delta(choice, copies)],
        usage=_copied_usage(result.usage, copies),
    )


def _copied_usage(usage: GenerationUsage, copies: int) -> GenerationUsage:
    reasoning = usage.reasoning_tokens
    return msgspec.structs.replace(
        usage,
        completion_tokens=usage.completion_tokens * copies,
        reasoning_tokens=None if reasoning is None else reasoning * copies,
    )


def _copied_delta(delta: GenerationDelta, copies: int) -> Iterator[GenerationDelta]:
    for index in range(copies):
        calls = [_with_own_id(call, index) for call in delta.tool_calls]
        yield msgspec.structs.replace(delta, index=index, tool_calls=calls)


def _with_own_id(call: ToolCallDelta, copy: int) -> ToolCallDelta:
    """The call in a copy, whose id is its own so that results can be told apart."""
    return call if call.id is None or copy == 0 else msgspec.structs.replace(call, id=f"{call.id}-{copy}")
