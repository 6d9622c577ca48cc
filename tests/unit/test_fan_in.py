import asyncio

import pytest

from domain.errors import BackendFailedError, ContextLengthError
from domain.fan_in import stream_all
from domain.port import RequestContext
from domain.requests import GenerationRequest
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.calls import events_of
from tests.fakes import FakeBackend
from tests.unit.waiting import until

CONTEXT = RequestContext(request_id="test")
NEVER_S = 10_000.0


@pytest.fixture
async def engine() -> FakeBackend:
    backend = FakeBackend(Role.GENERATE)
    await backend.start()
    return backend


def request(prompt: str) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, sampling=SamplingParameters(max_tokens=4, temperature=0.0))


async def collect(engine, requests) -> dict[int, list]:
    """The events of each request."""
    events: dict[int, list] = {index: [] for index in range(len(requests))}
    async with stream_all(engine, requests, CONTEXT) as merged:
        async for index, event in merged:
            events[index].append(event)
    return events


@pytest.mark.parametrize("prompts", [["a"], ["a", "b"], ["a", "b", "c", "d"]])
async def test_each_request_has_the_same_events_as_alone(engine, prompts):
    requests = [request(prompt) for prompt in prompts]
    together = await collect(engine, requests)
    assert engine.seen == requests
    for index, prompt in enumerate(prompts):
        assert together[index] == await events_of(engine, request(prompt), CONTEXT)
    assert engine.running == 0


async def test_requests_run_concurrently(engine):
    async with stream_all(engine, [request("a"), request("b"), request("c")], CONTEXT):
        assert engine.running == 3


async def test_the_first_failure_cancels_the_others_and_is_raised(engine):
    too_long = request("x" * (engine.max_model_len + 1))
    engine.delay_s = NEVER_S
    with pytest.raises(ContextLengthError):
        await collect(engine, [request("a"), too_long, request("b")])
    assert engine.running == 0


async def read(stream, into: list) -> None:
    async with stream as merged:
        async for _, event in merged:
            into.append(event)


async def test_a_failure_is_raised_after_earlier_events(engine):
    engine.fail_next = BackendFailedError("Broken.")
    events = []
    with pytest.raises(BackendFailedError):
        await read(stream_all(engine, [request("a"), request("b")], CONTEXT), events)
    assert events
    assert engine.running == 0


async def test_a_failure_before_the_first_event_raises_on_entering(engine):
    too_long = request("x" * (engine.max_model_len + 1))
    engine.delay_s = NEVER_S
    with pytest.raises(ContextLengthError):
        await stream_all(engine, [request("a"), too_long], CONTEXT).__aenter__()
    assert engine.running == 0


@pytest.mark.parametrize("prompts", [["a"], ["a", "b"]])
@pytest.mark.parametrize("error", [None, ZeroDivisionError, asyncio.CancelledError])
async def test_leaving_the_stream_cancels_all_requests(engine, prompts, error):
    async def leave() -> None:
        async with stream_all(engine, [request(prompt) for prompt in prompts], CONTEXT) as merged:
            await anext(merged)
            engine.delay_s = NEVER_S
            await until(lambda: engine.running == len(prompts))
            if error is not None:
                raise error

    if error is None:
        await leave()
    else:
        with pytest.raises(error):
            await leave()
    assert engine.running == 0


async def test_cancelling_before_the_first_event_cancels_all_requests(engine):
    engine.delay_s = NEVER_S
    waiting = asyncio.create_task(stream_all(engine, [request("a"), request("b")], CONTEXT).__aenter__())
    await until(lambda: engine.running == 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert engine.running == 0
