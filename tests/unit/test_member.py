import asyncio

import pytest

from domain.errors import (
    BackendBusyError,
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    BackendUnreachableError,
    ContextLengthError,
    InvalidRequestError,
)
from domain.health import BackendState, BreakerState
from domain.policies.circuit_breaker import CircuitBreaker
from domain.policies.member import MAX_BACK_OFF_S, LoneMember
from domain.policies.supervision import SupervisionBackend
from domain.policies.wrapper import BackendWrapper, layer
from domain.port import RequestContext
from domain.requests import DetokenizeRequest, EmbeddingRequest, GenerationRequest, TokenizeRequest
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.calls import events_of, stream
from tests.fakes import FakeBackend
from tests.unit.waiting import now, run_instantly

CONTEXT = RequestContext(request_id="test")
TEXTS = EmbeddingRequest(inputs=["one", "two", "three"])
PROMPT = GenerationRequest(prompt="x", sampling=SamplingParameters(max_tokens=3, temperature=1.0, n=2))
COOL_DOWN_S = 4.0


async def started(role: Role = Role.EMBED, **options) -> tuple[FakeBackend, LoneMember]:
    engine = FakeBackend(role, **options)
    breaker = CircuitBreaker(now, failures=2, cool_down_s=COOL_DOWN_S)
    member = LoneMember(engine, address="host:1", breaker=breaker, clock=now)
    await member.start()
    return engine, member


async def fails(engine: FakeBackend, member: LoneMember, error: Exception) -> None:
    engine.fail_next = error
    with pytest.raises(type(error)):
        await member.call(TEXTS, CONTEXT)


async def opened() -> tuple[FakeBackend, LoneMember]:
    engine, member = await started()
    for _ in range(2):
        await fails(engine, member, BackendUnreachableError("Gone."))
    assert member.breaker.state is BreakerState.OPEN
    return engine, member


def test_load_of_embeddings_is_counted_in_inputs():
    async def scenario():
        _, member = await started(delay_s=1)
        tasks = [asyncio.create_task(member.call(TEXTS, CONTEXT)) for _ in range(2)]
        await asyncio.sleep(0.5)
        assert member.health().outstanding == 6
        tasks[0].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert member.health().outstanding == 3
        await tasks[1]
        assert member.health().outstanding == 0

    run_instantly(scenario())


def test_load_of_streams_is_counted_in_choices():
    async def scenario():
        _, member = await started(Role.GENERATE)
        events = stream(member, PROMPT, CONTEXT)
        assert member.outstanding == 0
        await anext(events)
        assert member.outstanding == 2
        await events.aclose()
        assert member.outstanding == 0

    run_instantly(scenario())


def test_load_of_generations_is_counted_in_choices():
    async def scenario():
        _, member = await started(Role.GENERATE, delay_s=1)
        task = asyncio.create_task(member.call(PROMPT, CONTEXT))
        await asyncio.sleep(0.5)
        assert member.outstanding == 2
        await task
        assert member.outstanding == 0

    run_instantly(scenario())


def test_a_request_refused_before_the_server_sees_it_proves_nothing():
    async def scenario():
        engine, member = await started()
        for _ in range(2):
            await fails(engine, member, BackendTimeoutError("Silent."))
        await asyncio.sleep(COOL_DOWN_S)
        assert member.breaker.state is BreakerState.HALF_OPEN
        refused = InvalidRequestError("No such schema.")
        refused.has_reached_engine = False
        await fails(engine, member, refused)
        assert member.breaker.state is BreakerState.HALF_OPEN
        await member.call(TEXTS, CONTEXT)
        assert member.breaker.state is BreakerState.CLOSED

    run_instantly(scenario())


@pytest.mark.parametrize(
    "error", [BackendUnreachableError("Gone."), BackendTimeoutError("Silent.")], ids=lambda error: error.message
)
def test_a_silent_server_is_taken_out_of_rotation(error):
    async def scenario():
        engine, member = await started()
        for _ in range(2):
            await fails(engine, member, error)
        seen = len(engine.seen)
        for call in (
            member.call(TEXTS, CONTEXT),
            member.call(TokenizeRequest(prompt="x"), CONTEXT),
            member.call(DetokenizeRequest(token_ids=[65]), CONTEXT),
        ):
            with pytest.raises(BackendUnavailableError, match="out of rotation") as caught:
                await call
            assert caught.value.retry_after_s == COOL_DOWN_S
        assert len(engine.seen) == seen
        assert member.outstanding == 0
        assert member.health().last_error == error.message

    run_instantly(scenario())


def test_a_server_with_silent_streams_is_taken_out_of_rotation():
    async def scenario():
        engine, member = await started(Role.GENERATE)
        for _ in range(2):
            engine.fail_next = BackendTimeoutError("Silent.")
            with pytest.raises(BackendTimeoutError):
                await events_of(member, PROMPT, CONTEXT)
        with pytest.raises(BackendUnavailableError, match="out of rotation"):
            await events_of(member, PROMPT, CONTEXT)
        await asyncio.sleep(COOL_DOWN_S)
        assert len(await events_of(member, PROMPT, CONTEXT)) == 7
        assert member.breaker.state is BreakerState.CLOSED

    run_instantly(scenario())


@pytest.mark.parametrize(
    "error",
    [
        BackendFailedError("Failed on this one."),
        BackendBusyError("Busy.", retry_after_s=1),
        ContextLengthError(256, param="input"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_server_that_answers_with_errors_stays_in_rotation(error):
    async def scenario():
        engine, member = await started()
        for _ in range(5):
            await fails(engine, member, error)
        assert member.breaker.state is BreakerState.CLOSED

    run_instantly(scenario())


@pytest.mark.parametrize(("retry_after_s", "backs_off_s"), [(3, 3), (3000, MAX_BACK_OFF_S)])
def test_a_busy_server_backs_off(retry_after_s, backs_off_s):
    async def scenario():
        engine, member = await started()
        await fails(engine, member, BackendBusyError("Busy.", retry_after_s=retry_after_s))
        await asyncio.sleep(backs_off_s - 0.1)
        assert member.is_backing_off
        await asyncio.sleep(0.2)
        assert not member.is_backing_off

    run_instantly(scenario())


def test_a_disconnect_leaves_the_breaker_half_open():
    async def scenario():
        engine, member = await opened()
        await asyncio.sleep(COOL_DOWN_S)
        engine.delay_s = 1
        task = asyncio.create_task(member.call(TEXTS, CONTEXT))
        await asyncio.sleep(0.5)
        with pytest.raises(BackendUnavailableError, match="out of rotation"):
            await member.call(TEXTS, CONTEXT)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert member.breaker.state is BreakerState.HALF_OPEN
        await member.call(TEXTS, CONTEXT)
        assert member.breaker.state is BreakerState.CLOSED

    run_instantly(scenario())


def test_a_disconnect_during_an_answer_closes_the_breaker():
    async def scenario():
        engine, member = await started(Role.GENERATE)
        for _ in range(2):
            engine.fail_next = BackendTimeoutError("Silent.")
            with pytest.raises(BackendTimeoutError):
                await events_of(member, PROMPT, CONTEXT)
        await asyncio.sleep(COOL_DOWN_S)
        events = stream(member, PROMPT, CONTEXT)
        await anext(events)
        await events.aclose()
        assert member.breaker.state is BreakerState.CLOSED

    run_instantly(scenario())


def test_a_server_that_is_back_gets_a_trial_request_immediately():
    async def scenario():
        engine, member = await opened()
        engine.fail_probe = BackendUnreachableError("Gone.")
        with pytest.raises(BackendUnreachableError):
            await member.probe()
        assert (member.health().state, member.health().ejections) == (BackendState.UNAVAILABLE, 1)
        engine.fail_probe = None
        await member.probe()
        assert member.health().state is BackendState.READY
        assert member.breaker.state is BreakerState.HALF_OPEN
        await member.call(TEXTS, CONTEXT)
        assert member.breaker.state is BreakerState.CLOSED

    run_instantly(scenario())


def test_a_successful_probe_does_not_end_the_cool_down_of_a_ready_server():
    # Its probes succeed, but its requests do not.
    async def scenario():
        _, member = await opened()
        await member.probe()
        assert member.breaker.state is BreakerState.OPEN

    run_instantly(scenario())


def test_the_state_follows_start_and_stop():
    async def scenario():
        engine, member = await started()
        assert [one.state for one in member.members()] == [BackendState.READY]
        await member.stop()
        assert (engine.stops, member.health().state) == (1, BackendState.STOPPED)
        engine.fail_start = [BackendUnavailableError("Not yet.")]
        with pytest.raises(BackendUnavailableError):
            await member.start()
        assert member.health().last_error == "Not yet."

    run_instantly(scenario())


def test_the_health_of_a_role_includes_its_servers():
    async def scenario():
        engine, member = await started()
        role = SupervisionBackend(BackendWrapper(member), Role.EMBED, model=None)
        assert role.health.members == [member.health()]
        assert SupervisionBackend(engine, Role.EMBED, model=None).health.members is None

    run_instantly(scenario())


def test_a_layer_of_a_stack_is_found_by_its_class():
    engine = FakeBackend(Role.EMBED)
    inner = BackendWrapper(engine)
    assert layer(BackendWrapper(inner), FakeBackend) is engine
    assert layer(inner, BackendWrapper) is inner
    assert layer(inner, LoneMember) is None
