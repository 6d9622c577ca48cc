import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

import domain.policies.supervision
from domain.errors import (
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidRequestError,
)
from domain.health import BackendState, service_health
from domain.policies.supervision import SupervisionBackend
from domain.policies.warm_up import WARM_UP
from domain.port import RequestContext, ignore_step
from domain.requests import EmbeddingRequest, GenerationRequest
from domain.roles import ROLES, Role
from domain.sampling import SamplingParameters
from tests.calls import events_of, stream
from tests.fakes import DIMENSIONS, FakeBackend
from tests.unit.waiting import now, run_instantly

CONTEXT = RequestContext(request_id="test")
TEXT = EmbeddingRequest(inputs=["text"])
PROMPT = GenerationRequest(prompt="text", sampling=SamplingParameters(max_tokens=3))
PROBE_INTERVAL_S = 5.0


class Harness:
    """A role with a fake engine, and its reported changes of state with their times."""

    def __init__(self, role: Role = Role.EMBED, model: str | None = None) -> None:
        self.engine = FakeBackend(role, name="fake")
        self.reported: list[tuple[BackendState, str | None]] = []
        self.times: list[float] = []
        self.since: list[str] = []
        self._changed = asyncio.Event()
        self.backend = SupervisionBackend(
            self.engine, role, model=model, probe_interval_s=PROBE_INTERVAL_S, on_change=self._record
        )

    def _record(self, role, health) -> None:
        assert role is self.engine.role
        self.reported.append((health.state, health.reason))
        self.times.append(now())
        self.since.append(health.since)
        self._changed.set()

    async def next_state(self) -> BackendState:
        """Wait for the next change of state."""
        self._changed.clear()
        await self._changed.wait()
        return self.reported[-1][0]

    async def generate(self) -> list:
        return await events_of(self.backend, PROMPT, CONTEXT)


@contextlib.asynccontextmanager
async def started(role: Role = Role.EMBED) -> AsyncGenerator[Harness, None]:
    harness = Harness(role)
    await harness.backend.start()
    try:
        yield harness
    finally:
        await harness.backend.stop()


def test_a_start_ends_with_a_warm_up_request():
    async def scenario():
        async with started() as embedder, started(Role.GENERATE) as generator:
            assert [type(request) for request in embedder.engine.seen] == [EmbeddingRequest]
            assert [type(request) for request in generator.engine.seen] == [GenerationRequest]
            assert embedder.reported == generator.reported == [(BackendState.READY, None)]

    run_instantly(scenario())


def test_the_card_has_the_dimensions_of_the_warm_up():
    async def scenario():
        async with started() as embedder, started(Role.GENERATE) as generator:
            assert embedder.backend.card.dimensions == DIMENSIONS
            assert generator.backend.card.dimensions is None
            assert embedder.backend.card.name == embedder.backend.health.model == "fake"

    run_instantly(scenario())


def test_requests_are_rejected_before_the_start():
    async def scenario():
        harness = Harness(model="the-model")
        with pytest.raises(BackendUnavailableError, match="'the-model' is still starting") as caught:
            await harness.backend.call(TEXT, CONTEXT)
        assert caught.value.retry_after_s == 5
        with pytest.raises(BackendUnavailableError):
            await harness.generate()
        with pytest.raises(BackendUnavailableError):
            await harness.backend.probe()
        assert harness.engine.seen == []

    run_instantly(scenario())


def test_a_backend_without_a_known_model_is_named_by_its_role():
    with pytest.raises(BackendUnavailableError, match="The embed backend is still starting"):
        run_instantly(Harness().backend.call(TEXT, CONTEXT))


def test_requests_pass_when_ready():
    async def scenario():
        async with started() as embedder, started(Role.GENERATE) as generator:
            await embedder.backend.probe()
            assert (await embedder.backend.call(TEXT, CONTEXT)).dimensions == DIMENSIONS
            assert len(await generator.generate()) == 4

    run_instantly(scenario())


def test_an_unreachable_engine_is_retried_with_backoff():
    async def scenario():
        harness = Harness()
        harness.engine.fail_start = [BackendUnavailableError(f"Attempt {n}.") for n in range(7)]
        await harness.backend.start()
        assert harness.reported[:2] == [
            (BackendState.STARTING, "Attempt 0."),
            (BackendState.STARTING, "Attempt 1."),
        ]
        assert harness.reported[-1] == (BackendState.READY, None)
        pauses = [later - earlier for earlier, later in zip(harness.times, harness.times[1:], strict=False)]
        assert pauses == pytest.approx([0.25, 0.5, 1, 2, 4, 5, 5])
        await harness.backend.stop()

    run_instantly(scenario())


def test_a_timeout_during_start_is_retried():
    async def scenario():
        harness = Harness()
        harness.engine.fail_start = [BackendTimeoutError("Slow.")]
        assert (await harness.backend.start()).name == "fake"
        await harness.backend.stop()

    run_instantly(scenario())


def test_an_unavailable_engine_during_warm_up_is_retried():
    async def scenario():
        harness = Harness()
        harness.engine.fail_next = BackendUnavailableError("Gone again.")
        await harness.backend.start()
        assert [state for state, _ in harness.reported] == [BackendState.STARTING, BackendState.READY]
        await harness.backend.stop()

    run_instantly(scenario())


@pytest.mark.parametrize("role", Role)
def test_an_engine_that_fails_its_warm_up_has_failed(role):
    async def scenario():
        harness = Harness(role)
        harness.engine.fail_next = BackendFailedError("Out of memory.")
        with pytest.raises(BackendFailedError):
            await harness.backend.start()
        assert harness.reported == [(BackendState.FAILED, "Out of memory.")]
        assert harness.backend.card is None

    run_instantly(scenario())


def test_an_engine_that_cannot_start_is_not_retried_soon():
    async def scenario():
        harness = Harness()
        harness.engine.fail_start = [BackendFailedError("No such weights.")]
        with pytest.raises(BackendFailedError):
            await harness.backend.start()
        assert now() == 0
        assert harness.backend.health.state is BackendState.FAILED
        assert harness.backend.health.reason == "No such weights."
        with pytest.raises(BackendUnavailableError, match="not available at the moment"):
            await harness.backend.call(TEXT, CONTEXT)

    run_instantly(scenario())


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (BackendUnavailableError("Out of reach."), BackendState.UNAVAILABLE),
        (BackendTimeoutError("Out of reach."), BackendState.UNAVAILABLE),
        (BackendFailedError("Out of reach."), BackendState.FAILED),
    ],
)
def test_a_probe_detects_an_unavailable_engine(error, state):
    async def scenario():
        async with started() as harness:
            harness.engine.fail_probe = error
            assert await harness.next_state() is state
            assert now() == pytest.approx(PROBE_INTERVAL_S)
            assert harness.backend.health.reason == "Out of reach."
            with pytest.raises(BackendUnavailableError, match="'fake' is not available"):
                await harness.backend.call(TEXT, CONTEXT)

    run_instantly(scenario())


def test_an_engine_that_came_back_is_warmed_up_again():
    async def scenario():
        async with started() as harness:
            harness.engine.fail_probe = BackendUnavailableError("Away.")
            await harness.next_state()
            harness.engine.fail_probe = None
            assert await harness.next_state() is BackendState.READY
            assert len(harness.engine.seen) == 2
            assert (await harness.backend.call(TEXT, CONTEXT)).dimensions == DIMENSIONS

    run_instantly(scenario())


def test_an_engine_that_came_back_broken_is_not_ready():
    async def scenario():
        async with started() as harness:
            harness.engine.fail_probe = BackendUnavailableError("Away.")
            await harness.next_state()
            harness.engine.fail_probe = None
            harness.engine.fail_next = BackendFailedError("Broken.")
            assert await harness.next_state() is BackendState.FAILED

    run_instantly(scenario())


def test_a_healthy_engine_is_not_warmed_up_by_probes():
    async def scenario():
        async with started() as harness:
            await asyncio.sleep(10 * PROBE_INTERVAL_S)
            assert len(harness.engine.seen) == 1
            assert harness.reported == [(BackendState.READY, None)]

    run_instantly(scenario())


@pytest.mark.parametrize("error", [BackendFailedError("Trouble."), BackendUnavailableError("Trouble.")])
@pytest.mark.parametrize("role", Role)
def test_a_failed_request_triggers_a_probe(role, error):
    async def scenario():
        async with started(role) as harness:
            harness.engine.fail_next = error
            harness.engine.fail_probe = BackendFailedError("Dead.")
            with pytest.raises(type(error)):
                await (
                    harness.generate() if ROLES[role].generates else harness.backend.call(WARM_UP[role], CONTEXT)
                )
            assert await harness.next_state() is BackendState.FAILED
            assert now() == 0

    run_instantly(scenario())


@pytest.mark.parametrize("error", [InvalidRequestError("Your fault."), BackendTimeoutError("Slow.")])
def test_an_invalid_request_triggers_no_probe(error):
    async def scenario():
        async with started() as harness:
            harness.engine.fail_next = error
            harness.engine.fail_probe = BackendFailedError("Dead.")
            with pytest.raises(type(error)):
                await harness.backend.call(TEXT, CONTEXT)
            await harness.next_state()
            assert now() == pytest.approx(PROBE_INTERVAL_S)

    run_instantly(scenario())


def test_one_failed_request_leaves_a_healthy_engine_ready():
    async def scenario():
        async with started() as harness:
            harness.engine.fail_next = BackendFailedError("Trouble.")
            with pytest.raises(BackendFailedError):
                await harness.backend.call(TEXT, CONTEXT)
            await asyncio.sleep(1)
            assert harness.reported == [(BackendState.READY, None)]

    run_instantly(scenario())


def test_closing_a_stream_aborts_the_work():
    async def scenario():
        async with started(Role.GENERATE) as harness:
            events = stream(harness.backend, PROMPT, CONTEXT)
            await anext(events)
            assert harness.engine.running == 1
            await events.aclose()
            assert harness.engine.running == 0

    run_instantly(scenario())


def test_a_stopped_backend_rejects_requests():
    async def scenario():
        async with started() as harness:
            await harness.backend.stop()
            assert harness.backend.health.state is BackendState.STOPPED
            with pytest.raises(BackendUnavailableError, match="is stopping"):
                await harness.backend.call(TEXT, CONTEXT)

    run_instantly(scenario())


def test_stop_is_idempotent_and_ends_engine_and_probes():
    async def scenario():
        async with started() as harness:
            await harness.backend.stop()
            await harness.backend.stop()
            harness.engine.fail_probe = BackendFailedError("Asked after its end.")
            await asyncio.sleep(10 * PROBE_INTERVAL_S)
            assert harness.engine.started is False
            assert [state for state, _ in harness.reported] == [BackendState.READY, BackendState.STOPPED]

    run_instantly(scenario())


def test_a_backend_that_never_started_can_be_stopped():
    async def scenario():
        harness = Harness()
        await harness.backend.stop()
        assert harness.engine.stops == 1

    run_instantly(scenario())


@pytest.mark.parametrize("fails_on", [BackendState.UNAVAILABLE, BackendState.STOPPED])
def test_a_stop_reaches_the_engine_even_if_the_listener_fails(fails_on):
    # An example is the console, whose pipe may be closed.
    def listener(_role, health) -> None:
        if health.state is fails_on:
            raise BrokenPipeError

    async def scenario():
        engine = FakeBackend(Role.EMBED)
        backend = SupervisionBackend(engine, Role.EMBED, model=None, on_change=listener)
        await backend.start()
        engine.fail_probe = BackendUnavailableError("Away.")
        await asyncio.sleep(2 * PROBE_INTERVAL_S)
        with contextlib.suppress(BrokenPipeError):
            await backend.stop()
        assert engine.stops == 1

    run_instantly(scenario())


def test_an_unexpected_error_during_start_means_failed():
    # A third-party backend may raise other errors than the port's; otherwise "starting" would never end.
    async def scenario():
        harness = Harness()
        harness.engine.fail_start = [RuntimeError("No such device.")]
        with contextlib.suppress(Exception):
            await harness.backend.start()
        assert harness.backend.health.state is BackendState.FAILED

    run_instantly(scenario())


def test_an_unexpected_error_of_a_probe_does_not_end_monitoring():
    async def scenario():
        async with started() as harness:
            harness.engine.fail_probe = RuntimeError("No such device.")
            await asyncio.sleep(2 * PROBE_INTERVAL_S)
            assert harness.backend.health.state is not BackendState.READY
            harness.engine.fail_probe = None
            assert await harness.next_state() is BackendState.READY

    run_instantly(scenario())


def test_the_beginning_of_a_state_is_in_utc():
    since = Harness().backend.health.since
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", since)
    assert abs(datetime.fromisoformat(since) - datetime.now(UTC)) < timedelta(hours=1)


def test_a_state_keeps_its_beginning_while_its_reason_changes(monkeypatch):
    # A clock that advances by a day with every call.
    days = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in itertools.count())
    clock = SimpleNamespace(now=lambda _zone: next(days))
    monkeypatch.setattr(domain.policies.supervision, "datetime", clock)

    async def scenario():
        harness = Harness()
        harness.engine.fail_start = [BackendUnavailableError("One."), BackendUnavailableError("Two.")]
        await harness.backend.start()
        assert [reason for _, reason in harness.reported] == ["One.", "Two.", None]
        first, second, ready = harness.since
        assert first == second == "2026-01-01T00:00:00Z"
        assert ready > second
        await harness.backend.stop()

    run_instantly(scenario())


def test_an_unchanged_state_is_reported_once():
    async def scenario():
        harness = Harness()
        harness.engine.fail_start = [BackendUnavailableError("Same.") for _ in range(4)]
        await harness.backend.start()
        assert harness.reported == [(BackendState.STARTING, "Same."), (BackendState.READY, None)]
        await harness.backend.stop()

    run_instantly(scenario())


def test_the_service_is_ok_only_if_every_role_is():
    async def scenario():
        async with started() as ready:
            starting = Harness(Role.GENERATE)
            well = {Role.EMBED: ready.backend.health}
            assert service_health(well, tasks=1).status == "ok"
            both = service_health(well | {Role.GENERATE: starting.backend.health}, tasks=1)
            assert both.status == "unavailable"
            assert both.backends[Role.GENERATE].state is BackendState.STARTING

    run_instantly(scenario())


def test_the_step_of_a_start_is_the_reason_of_its_state():
    class Slow(FakeBackend):
        async def start(self, on_step=ignore_step):
            on_step("loading the model")
            await asyncio.sleep(1)
            return await super().start(on_step)

    async def scenario():
        states = []
        backend = SupervisionBackend(
            Slow(Role.EMBED), Role.EMBED, model="m", on_change=lambda _role, health: states.append(health)
        )
        await backend.start()
        await backend.stop()
        return [(health.state, health.reason) for health in states[:2]]

    assert run_instantly(scenario()) == [
        (BackendState.STARTING, "loading the model"),
        (BackendState.READY, None),
    ]


def test_a_late_step_is_ignored():
    class Reporting(FakeBackend):
        async def start(self, on_step=ignore_step):
            self.report = on_step
            return await super().start(on_step)

    async def scenario():
        fake = Reporting(Role.EMBED)
        backend = SupervisionBackend(fake, Role.EMBED, model="m")
        await backend.start()
        fake.report("loading the model")
        after_start = backend.health.state
        await backend.stop()
        fake.report("loading the model")
        return after_start, backend.health.state

    assert run_instantly(scenario()) == (BackendState.READY, BackendState.STOPPED)
