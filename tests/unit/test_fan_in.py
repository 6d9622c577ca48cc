import asyncio
import contextlib

import pytest

from domain.errors import BackendFailedError, ContextLengthError
from domain.fan_in import generate_all
from domain.port import RequestContext
from domain.requests import GenerationRequest
from domain.results import FinishReason, GenerationDelta, GenerationUsage
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.fakes import FakeBackend
from tests.unit.waiting import until

CONTEXT = RequestContext(request_id="test")
NEVER_S = 10_000.0


@pytest.fixture
async def engine() -> FakeBackend:
    backend = FakeBackend(Role.GENERATE)
    await backend.start()
    return backend


def request(prompt: str = "a", *, stream: bool = True, **sampling) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt,
        stream=stream,
        sampling=SamplingParameters(**{"max_tokens": 4, "temperature": 0.0, **sampling}),
    )


async def heard(engine, requests) -> dict[int, list]:
    """The events of each request."""
    events: dict[int, list] = {index: [] for index in range(len(requests))}
    async for index, event in generate_all(engine, requests, CONTEXT):
        events[index].append(event)
    return events


def text_of(events, index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, GenerationDelta) and event.index == index)


@pytest.mark.parametrize("prompts", [["a"], ["a", "b"], ["a", "b", "c", "d"]])
async def test_each_request_is_heard_as_if_it_were_alone(engine, prompts):
    together = await heard(engine, [request(prompt) for prompt in prompts])
    for index, prompt in enumerate(prompts):
        alone = [event async for event in engine.generate(request(prompt), CONTEXT)]
        assert together[index] == alone
    assert engine.running == 0


async def test_several_requests_run_at_the_same_time(engine):
    events = generate_all(engine, [request("a"), request("b"), request("c")], CONTEXT)
    await anext(events)
    assert engine.running == 3
    await events.aclose()


async def test_the_first_failure_ends_the_others_and_is_raised(engine):
    too_long = request("x" * (engine.max_model_len + 1))
    engine.delay_s = NEVER_S
    with pytest.raises(ContextLengthError):
        await heard(engine, [request("a"), too_long, request("b")])
    assert engine.running == 0


async def collect(events, into: list) -> None:
    async for _, event in events:
        into.append(event)


async def test_a_failure_in_the_middle_is_raised_after_what_came_before(engine):
    engine.fail_next = BackendFailedError("Broken.")
    events = generate_all(engine, [request("a"), request("b")], CONTEXT)
    came = []
    with pytest.raises(BackendFailedError):
        await collect(events, came)
    assert came
    assert engine.running == 0


@pytest.mark.parametrize("prompts", [["a"], ["a", "b"]])
async def test_closing_the_stream_ends_all_work(engine, prompts):
    events = generate_all(engine, [request(prompt) for prompt in prompts], CONTEXT)
    await anext(events)
    assert engine.running == len(prompts)
    await events.aclose()
    assert engine.running == 0


async def test_a_stream_that_is_closed_before_its_first_event_ends_its_work(engine):
    engine.delay_s = NEVER_S
    events = generate_all(engine, [request("a"), request("b")], CONTEXT)
    waiting = asyncio.ensure_future(anext(events))
    await until(lambda: engine.running == 2)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert engine.running == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_greedy_choices_are_generated_once_and_copied(engine, stream):
    events = (await heard(engine, [request(n=3, stream=stream)]))[0]
    assert [asked.sampling.n for asked in engine.seen] == [1]
    alone = [event async for event in engine.generate(request(stream=stream), CONTEXT)]
    assert [text_of(events, index) for index in range(3)] == [text_of(alone)] * 3
    ends = [event.index for event in events[:-1] if event.finish_reason is FinishReason.LENGTH]
    assert sorted(ends) == [0, 1, 2]


async def test_copied_choices_count_as_completion_tokens_and_the_prompt_counts_once(engine):
    events = (await heard(engine, [request("abc", n=3, max_tokens=4)]))[0]
    assert events[-1] == GenerationUsage(prompt_tokens=3, completion_tokens=12)


@pytest.mark.parametrize("temperature", [None, 0.7])
async def test_choices_that_are_sampled_are_left_to_the_engine(engine, temperature):
    events = (await heard(engine, [request(n=3, temperature=temperature, seed=1)]))[0]
    assert [asked.sampling.n for asked in engine.seen] == [3]
    assert len({text_of(events, index) for index in range(3)}) > 1
    assert events[-1].completion_tokens == 12


async def test_one_greedy_choice_is_passed_on_as_it_is(engine):
    asked = request(n=1)
    await heard(engine, [asked])
    assert engine.seen == [asked]
