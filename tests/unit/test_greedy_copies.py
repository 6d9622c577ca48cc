"""Several greedy choices are generated once and copied, streamed or not."""

import contextlib

import pytest

from adapters.vllm.dialect.greedy_copies import copied_events, copied_result, greedy_copies, single_choice
from domain.port import RequestContext
from domain.requests import GenerationRequest
from domain.results import FinishReason, GenerationDelta, GenerationResult, GenerationUsage, ToolCallDelta
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.calls import events_of, stream
from tests.fakes import FakeBackend

CONTEXT = RequestContext(request_id="test")
COPIES = 3


@pytest.fixture
async def engine() -> FakeBackend:
    backend = FakeBackend(Role.GENERATE)
    await backend.start()
    return backend


def request(prompt: str = "a", **sampling) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt, sampling=SamplingParameters(**{"max_tokens": 4, "temperature": 0.0, **sampling})
    )


async def copied(engine: FakeBackend, asked: GenerationRequest, *, streams: bool) -> list:
    """All events of a request, with its single choice copied."""
    copies = greedy_copies(asked)
    if not streams:
        result = copied_result(await engine.call(single_choice(asked), CONTEXT), copies)
        return [*result.choices, result.usage]
    async with contextlib.aclosing(stream(engine, single_choice(asked), CONTEXT)) as events:
        return [event async for event in copied_events(events, copies)]


def choice_of(events: list, index: int) -> list[GenerationDelta]:
    return [event for event in events if isinstance(event, GenerationDelta) and event.index == index]


def text_of(events: list, index: int = 0) -> str:
    return "".join(event.text for event in choice_of(events, index))


@pytest.mark.parametrize("streams", [True, False])
async def test_greedy_choices_are_generated_once_and_copied(engine, streams):
    events = await copied(engine, request(n=COPIES), streams=streams)
    assert [asked.sampling.n for asked in engine.seen] == [1]
    alone = await events_of(engine, request(), CONTEXT, streams=streams)
    assert [text_of(events, index) for index in range(COPIES)] == [text_of(alone)] * COPIES
    ends = [event.index for event in events[:-1] if event.finish_reason is FinishReason.LENGTH]
    assert sorted(ends) == list(range(COPIES))


@pytest.mark.parametrize("streams", [True, False])
async def test_copied_choices_count_as_completion_tokens_and_the_prompt_counts_once(engine, streams):
    events = await copied(engine, request("abc", n=COPIES, max_tokens=4), streams=streams)
    assert events[-1] == GenerationUsage(prompt_tokens=3, completion_tokens=12, cached_tokens=0)


@pytest.mark.parametrize("streams", [True, False])
async def test_every_copy_has_the_stop_sequence(engine, streams):
    free = await copied(engine, request("abc", n=1, max_tokens=8), streams=streams)
    stop = "".join(event.text for event in free[:-1])[3:5]
    events = await copied(engine, request("abc", n=COPIES, max_tokens=8, stop=[stop]), streams=streams)
    assert [event.stop_sequence for event in events[:-1] if event.finish_reason] == [stop] * COPIES


@pytest.mark.parametrize("temperature", [None, 0.7])
def test_sampled_choices_are_not_copied(temperature):
    assert greedy_copies(request(n=COPIES, temperature=temperature, seed=1)) == 1


def test_one_greedy_choice_is_not_copied():
    assert greedy_copies(request(n=1)) == 1


def test_only_the_number_of_choices_is_changed():
    asked = request("abc", n=COPIES, max_tokens=7, stop=["x"])
    assert single_choice(asked) == request("abc", n=1, max_tokens=7, stop=["x"])


def test_each_copy_of_a_tool_call_has_a_unique_id():
    calls = [ToolCallDelta(index=0, id="call", name="f", arguments="{"), ToolCallDelta(index=0, arguments="}")]
    result = GenerationResult(
        choices=[GenerationDelta(index=0, text="", tool_calls=calls, finish_reason=FinishReason.STOP)],
        usage=GenerationUsage(prompt_tokens=1, completion_tokens=2),
    )
    choices = copied_result(result, COPIES).choices
    assert [choice.index for choice in choices] == list(range(COPIES))
    named, deltas = zip(*(choice.tool_calls for choice in choices), strict=True)
    assert [call.id for call in named] == ["call", "call-1", "call-2"]
    assert {(call.name, call.arguments) for call in named} == {("f", "{")}
    assert set(deltas) == {calls[1]}


def test_reasoning_tokens_are_multiplied_too():
    usage = GenerationUsage(prompt_tokens=3, completion_tokens=5, reasoning_tokens=2)
    copy = copied_result(GenerationResult(choices=[], usage=usage), COPIES).usage
    assert copy == GenerationUsage(prompt_tokens=3, completion_tokens=15, reasoning_tokens=6)


def test_the_prompt_is_counted_once():
    usage = GenerationUsage(prompt_tokens=3, completion_tokens=5, cached_tokens=2)
    copy = copied_result(GenerationResult(choices=[], usage=usage), COPIES).usage
    assert (copy.prompt_tokens, copy.cached_tokens) == (3, 2)
