"""Deadlines: requests that exceed their timeout are aborted."""

import asyncio

import msgspec
import pytest

from domain.errors import DeadlineError
from domain.policies.deadline import DeadlineBackend
from domain.port import RequestContext
from domain.requests import EmbeddingRequest, GenerationRequest
from domain.roles import Role
from domain.sampling import SamplingParameters
from domain.service_class import ServiceClass
from tests.calls import events_of, stream
from tests.fakes import FakeBackend
from tests.unit.waiting import now, run_instantly

REQUEST = EmbeddingRequest(inputs=["text"])
STREAM = GenerationRequest(prompt="text", sampling=SamplingParameters(max_tokens=10))


def deadline(role: Role, *, takes_s: float, timeout_s: float) -> tuple[FakeBackend, DeadlineBackend]:
    engine = FakeBackend(role, delay_s=takes_s)
    engine.started = True
    return engine, DeadlineBackend(engine, timeout_s=timeout_s)


def context(timeout_s: float | None = None) -> RequestContext:
    return RequestContext(request_id="test", timeout_s=timeout_s)


@pytest.mark.parametrize(("service_s", "client_s"), [(5, None), (0, 5), (5, 60), (60, 5)])
def test_the_smaller_timeout_aborts_the_work(service_s, client_s):
    async def scenario():
        engine, backend = deadline(Role.EMBED, takes_s=30, timeout_s=service_s)
        with pytest.raises(DeadlineError, match="timeout of 5 seconds"):
            await backend.call(REQUEST, context(client_s))
        assert (now(), engine.running) == (5, 0)

    run_instantly(scenario())


def test_a_request_in_time_is_answered():
    async def scenario():
        _, backend = deadline(Role.EMBED, takes_s=4, timeout_s=5)
        assert (await backend.call(REQUEST, context())).prompt_tokens == 4

    run_instantly(scenario())


def test_without_timeouts_requests_may_take_any_time():
    async def scenario():
        _, embedder = deadline(Role.EMBED, takes_s=10_000, timeout_s=0)
        _, generator = deadline(Role.GENERATE, takes_s=10_000, timeout_s=0)
        assert await embedder.call(REQUEST, context())
        assert len(await events_of(generator, STREAM, context())) == 11

    run_instantly(scenario())


def test_a_line_of_a_batch_has_only_the_deadline_that_it_asks_for():
    async def scenario():
        _, backend = deadline(Role.EMBED, takes_s=10_000, timeout_s=5)
        line = msgspec.structs.replace(context(), service_class=ServiceClass.BATCH)
        assert await backend.call(REQUEST, line)
        with pytest.raises(DeadlineError, match="timeout of 60 seconds"):
            await backend.call(REQUEST, msgspec.structs.replace(line, timeout_s=60))

    run_instantly(scenario())


def test_a_stream_without_events_is_aborted_at_the_deadline():
    async def scenario():
        engine, backend = deadline(Role.GENERATE, takes_s=30, timeout_s=5)
        with pytest.raises(DeadlineError):
            await anext(stream(backend, STREAM, context()))
        assert (now(), engine.running) == (5, 0)

    run_instantly(scenario())


def test_a_slow_stream_is_aborted_after_its_first_events():
    async def scenario():
        engine, backend = deadline(Role.GENERATE, takes_s=1, timeout_s=4.5)
        events = stream(backend, STREAM, context())
        received = [await anext(events) for _ in range(4)]
        assert all(event.text for event in received)
        with pytest.raises(DeadlineError):
            await anext(events)
        assert (now(), engine.running) == (4.5, 0)

    run_instantly(scenario())


def test_a_stalled_stream_is_aborted_at_the_deadline():
    async def scenario():
        engine, backend = deadline(Role.GENERATE, takes_s=1, timeout_s=5)
        events = stream(backend, STREAM, context())
        assert (await anext(events)).text
        engine.delay_s = 10_000
        with pytest.raises(DeadlineError, match="timeout of 5 seconds"):
            await anext(events)
        assert (now(), engine.running) == (5, 0)

    run_instantly(scenario())


def test_a_stream_in_time_is_complete():
    async def scenario():
        _, backend = deadline(Role.GENERATE, takes_s=1, timeout_s=100)
        assert len(await events_of(backend, STREAM, context())) == 11

    run_instantly(scenario())


def test_an_engines_own_timeout_is_not_a_deadline_error():
    class Slow(FakeBackend):
        async def call(self, request, context):
            raise TimeoutError

    async def scenario():
        backend = DeadlineBackend(Slow(Role.EMBED), timeout_s=5)
        with pytest.raises(TimeoutError) as caught:
            await backend.call(REQUEST, context())
        assert not isinstance(caught.value, DeadlineError)
        assert asyncio.get_running_loop().time() == 0

    run_instantly(scenario())
