"""Serves several greedy choices, which are identical, by generating one and copying it.

vLLM rejects `n` above 1 at temperature 0 (`vllm.sampling_params.SamplingParams._verify_greedy_sampling`, 0.32.0);
OpenAI accepts it.
"""

import contextlib
from collections.abc import AsyncGenerator, Iterator

import msgspec

from domain.requests import GenerationRequest
from domain.results import GenerationDelta, GenerationEvent, GenerationResult, GenerationUsage, ToolCallDelta


def greedy_copies(request: GenerationRequest) -> int:
    """How many copies of one choice a greedy request needs; 1 for requests that vLLM accepts unchanged."""
    return request.sampling.n if request.sampling.temperature == 0 else 1


def single_choice(request: GenerationRequest) -> GenerationRequest:
    """The same request for one choice."""
    return msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, n=1))


async def copied_events(
    events: AsyncGenerator[GenerationEvent, None], copies: int
) -> AsyncGenerator[GenerationEvent, None]:
    """Turn the events of one choice into those of several equal choices; closes `events` at the end."""
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, GenerationUsage):
                yield _copy_usage(event, copies)
            else:
                for copy in _copy_delta(event, copies):
                    yield copy


def copied_result(result: GenerationResult, copies: int) -> GenerationResult:
    """Turn a result with one choice into one with several equal choices."""
    return GenerationResult(
        choices=[copy for choice in result.choices for copy in _copy_delta(choice, copies)],
        usage=_copy_usage(result.usage, copies),
    )


def _copy_usage(usage: GenerationUsage, copies: int) -> GenerationUsage:
    reasoning = usage.reasoning_tokens
    return msgspec.structs.replace(
        usage,
        completion_tokens=usage.completion_tokens * copies,
        reasoning_tokens=None if reasoning is None else reasoning * copies,
    )


def _copy_delta(delta: GenerationDelta, copies: int) -> Iterator[GenerationDelta]:
    for index in range(copies):
        calls = [_with_unique_id(call, index) for call in delta.tool_calls]
        yield msgspec.structs.replace(delta, index=index, tool_calls=calls)


def _with_unique_id(call: ToolCallDelta, copy: int) -> ToolCallDelta:
    """The call with an id that is unique among the copies, so that tool results can refer to it."""
    return call if call.id is None or copy == 0 else msgspec.structs.replace(call, id=f"{call.id}-{copy}")
