import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

import domain.policies.readiness
from domain.errors import (
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidRequestError,
)
from domain.health import BackendState, service_health
from domain.policies.readiness import ReadinessBackend
from domain.port import RequestContext, ignore_step
from domain.requests import EmbeddingRequest, GenerationRequest
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.calls import events_of, stream
from tests.fakes import DIMENSIONS, FakeBackend
from tests.unit.waiting import now, run_instantly

CONTEXT = RequestContext(request_id="test")
TEXT = EmbeddingRequest(inputs=["text"])
PROMPT = GenerationRequest(prompt="text", sampling=SamplingParameters(max_tokens=3))
PROBE_INTERVAL_S = 5.0


class Stage:
    """A role on a fake engine, and the changes of state that it told, with their times."""

    def __init__(self, role: Role = Role.EMBED, model: str | None = None) -> None:
        self.engine = FakeBackend(role, name="fake")
        self.told: list[tuple[BackendState, str | None]] = []
        self.times: list[float] = []
        self.since: list[str] = []
        self._news = asyncio.Event()
        self.backend = ReadinessBackend(
            self.engine, role, model=model, probe_interval_s=PROBE_INTERVAL_S, on_change=self._heard
        )

    def _heard(self, role, health) -> None:
        assert role is self.engine.role
        self.told.append((health.state, health.reason))
        self.times.append(now())
        self.since.append(health.since)
        self._news.set()

    async def news(self) -> BackendState:
        """The next change."""
        self._news.clear()
        await self._news.wait()
        return self.told[-1][0]

    async def generate(self) -> list:
        return await events_of(self.backend, PROMPT, CONTEXT)


@contextlib.asynccontextmanager
async def started(role: Role = Role.EMBED) -> AsyncGenerator[Stage, None]:
    stage = Stage(role)
    await stage.backend.start()
    try:
        yield stage
    finally:
        await stage.backend.stop()


def test_a_start_ends_with_a_request_through_the_engine():
    async def scenario():
        async with started() as embedder, started(Role.GENERATE) as generator:
            assert [type(request) for request in embedder.engine.seen] == [EmbeddingRequest]
            assert [type(request) for request in generator.engine.seen] == [GenerationRequest]
            assert embedder.told == generator.told == [(BackendState.READY, None)]

    run_instantly(scenario())


def test_the_card_tells_the_dimensions_that_the_warm_up_saw():
    async def scenario():
        async with started() as embedder, started(Role.GENERATE) as generator:
            assert embedder.backend.card.dimensions == DIMENSIONS
            assert generator.backend.card.dimensions is None
            assert embedder.backend.card.name == embedder.backend.health.model == "fake"

    run_instantly(scenario())


def test_requests_are_turned_away_before_the_start():
    async def scenario():
        stage = Stage(model="the-model")
        with pytest.raises(BackendUnavailableError, match="'the-model' is still starting") as caught:
            await stage.backend.call(TEXT, CONTEXT)
        assert caught.value.retry_after_s == 5
        with pytest.raises(BackendUnavailableError):
            await stage.generate()
        with pytest.raises(BackendUnavailableError):
            await stage.backend.probe()
        assert stage.engine.seen == []

    run_instantly(scenario())


def test_a_backend_whose_model_is_not_known_yet_is_called_by_its_role():
    with pytest.raises(BackendUnavailableError, match="The embed backend is still starting"):
        run_instantly(Stage().backend.call(TEXT, CONTEXT))


def test_requests_pass_once_ready():
    async def scenario():
        async with started() as embedder, started(Role.GENERATE) as generator:
            await embedder.backend.probe()
            assert (await embedder.backend.call(TEXT, CONTEXT)).dimensions == DIMENSIONS
            assert len(await generator.generate()) == 4

    run_instantly(scenario())


def test_an_engine_out_of_reach_is_tried_again_at_growing_intervals():
    async def scenario():
        stage = Stage()
        stage.engine.fail_start = [BackendUnavailableError(f"Attempt {n}.") for n in range(7)]
        await stage.backend.start()
        assert stage.told[:2] == [
            (BackendState.STARTING, "Attempt 0."),
            (BackendState.STARTING, "Attempt 1."),
        ]
        assert stage.told[-1] == (BackendState.READY, None)
        pauses = [later - earlier for earlier, later in zip(stage.times, stage.times[1:], strict=False)]
        assert pauses == pytest.approx([0.25, 0.5, 1, 2, 4, 5, 5])
        await stage.backend.stop()

    run_instantly(scenario())


def test_a_timeout_while_starting_is_tried_again():
    async def scenario():
        stage = Stage()
        stage.engine.fail_start = [BackendTimeoutError("Slow.")]
        assert (await stage.backend.start()).name == "fake"
        await stage.backend.stop()

    run_instantly(scenario())


def test_a_warm_up_that_finds_nobody_is_tried_again():
    async def scenario():
        stage = Stage()
        stage.engine.fail_next = BackendUnavailableError("Gone again.")
        await stage.backend.start()
        assert [state for state, _ in stage.told] == [BackendState.STARTING, BackendState.READY]
        await stage.backend.stop()

    run_instantly(scenario())


@pytest.mark.parametrize("role", Role)
def test_an_engine_that_fails_its_warm_up_has_failed(role):
    async def scenario():
        stage = Stage(role)
        stage.engine.fail_next = BackendFailedError("Out of memory.")
        with pytest.raises(BackendFailedError):
            await stage.backend.start()
        assert stage.told == [(BackendState.FAILED, "Out of memory.")]
        assert stage.backend.card is None

    run_instantly(scenario())


def test_an_engine_that_cannot_start_is_not_tried_again():
    async def scenario():
        stage = Stage()
        stage.engine.fail_start = [BackendFailedError("No such weights.")]
        with pytest.raises(BackendFailedError):
            await stage.backend.start()
        assert now() == 0
        assert stage.backend.health.state is BackendState.FAILED
        assert stage.backend.health.reason == "No such weights."
        with pytest.raises(BackendUnavailableError, match="not available at the moment"):
            await stage.backend.call(TEXT, CONTEXT)

    run_instantly(scenario())


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (BackendUnavailableError("Out of reach."), BackendState.UNAVAILABLE),
        (BackendTimeoutError("Out of reach."), BackendState.UNAVAILABLE),
        (BackendFailedError("Out of reach."), BackendState.FAILED),
    ],
)
def test_a_probe_notices_an_engine_that_went_away(error, state):
    async def scenario():
        async with started() as stage:
            stage.engine.fail_probe = error
            assert await stage.news() is state
            assert now() == pytest.approx(PROBE_INTERVAL_S)
            assert stage.backend.health.reason == "Out of reach."
            with pytest.raises(BackendUnavailableError, match="'fake' is not available"):
                await stage.backend.call(TEXT, CONTEXT)

    run_instantly(scenario())


def test_an_engine_that_came_back_is_warmed_up_again():
    async def scenario():
        async with started() as stage:
            stage.engine.fail_probe = BackendUnavailableError("Away.")
            await stage.news()
            stage.engine.fail_probe = None
            assert await stage.news() is BackendState.READY
            assert len(stage.engine.seen) == 2
            assert (await stage.backend.call(TEXT, CONTEXT)).dimensions == DIMENSIONS

    run_instantly(scenario())


def test_an_engine_that_came_back_broken_is_not_ready():
    async def scenario():
        async with started() as stage:
            stage.engine.fail_probe = BackendUnavailableError("Away.")
            await stage.news()
            stage.engine.fail_probe = None
            stage.engine.fail_next = BackendFailedError("Broken.")
            assert await stage.news() is BackendState.FAILED

    run_instantly(scenario())


def test_a_healthy_engine_is_not_warmed_up_by_probes():
    async def scenario():
        async with started() as stage:
            await asyncio.sleep(10 * PROBE_INTERVAL_S)
            assert len(stage.engine.seen) == 1
            assert stage.told == [(BackendState.READY, None)]

    run_instantly(scenario())


@pytest.mark.parametrize("error", [BackendFailedError("Trouble."), BackendUnavailableError("Trouble.")])
@pytest.mark.parametrize("role", Role)
def test_trouble_in_a_request_brings_the_probe_forward(role, error):
    async def scenario():
        async with started(role) as stage:
            stage.engine.fail_next = error
            stage.engine.fail_probe = BackendFailedError("Dead.")
            with pytest.raises(type(error)):
                await (stage.backend.call(TEXT, CONTEXT) if role is Role.EMBED else stage.generate())
            assert await stage.news() is BackendState.FAILED
            assert now() == 0

    run_instantly(scenario())


@pytest.mark.parametrize("error", [InvalidRequestError("Your fault."), BackendTimeoutError("Slow.")])
def test_a_request_at_fault_itself_brings_no_probe_forward(error):
    async def scenario():
        async with started() as stage:
            stage.engine.fail_next = error
            stage.engine.fail_probe = BackendFailedError("Dead.")
            with pytest.raises(type(error)):
                await stage.backend.call(TEXT, CONTEXT)
            await stage.news()
            assert now() == pytest.approx(PROBE_INTERVAL_S)

    run_instantly(scenario())


def test_one_failed_request_leaves_a_healthy_engine_ready():
    async def scenario():
        async with started() as stage:
            stage.engine.fail_next = BackendFailedError("Trouble.")
            with pytest.raises(BackendFailedError):
                await stage.backend.call(TEXT, CONTEXT)
            await asyncio.sleep(1)
            assert stage.told == [(BackendState.READY, None)]

    run_instantly(scenario())


def test_closing_a_generation_ends_the_work():
    async def scenario():
        async with started(Role.GENERATE) as stage:
            events = stream(stage.backend, PROMPT, CONTEXT)
            await anext(events)
            assert stage.engine.running == 1
            await events.aclose()
            assert stage.engine.running == 0

    run_instantly(scenario())


def test_a_stopped_backend_turns_requests_away():
    async def scenario():
        async with started() as stage:
            await stage.backend.stop()
            assert stage.backend.health.state is BackendState.STOPPED
            with pytest.raises(BackendUnavailableError, match="is stopping"):
                await stage.backend.call(TEXT, CONTEXT)

    run_instantly(scenario())


def test_a_stop_ends_engine_and_probes_and_may_be_repeated():
    async def scenario():
        async with started() as stage:
            await stage.backend.stop()
            await stage.backend.stop()
            stage.engine.fail_probe = BackendFailedError("Asked after its end.")
            await asyncio.sleep(10 * PROBE_INTERVAL_S)
            assert stage.engine.started is False
            assert [state for state, _ in stage.told] == [BackendState.READY, BackendState.STOPPED]

    run_instantly(scenario())


def test_a_backend_that_never_started_can_be_stopped():
    async def scenario():
        stage = Stage()
        await stage.backend.stop()
        assert stage.engine.stops == 1

    run_instantly(scenario())


@pytest.mark.parametrize("deaf_to", [BackendState.UNAVAILABLE, BackendState.STOPPED])
def test_a_stop_reaches_the_engine_even_if_nobody_can_be_told(deaf_to):
    # The console is such a listener, and its pipe may be closed.
    def listener(_role, health) -> None:
        if health.state is deaf_to:
            raise BrokenPipeError

    async def scenario():
        engine = FakeBackend(Role.EMBED)
        backend = ReadinessBackend(engine, Role.EMBED, model=None, on_change=listener)
        await backend.start()
        engine.fail_probe = BackendUnavailableError("Away.")
        await asyncio.sleep(2 * PROBE_INTERVAL_S)
        with contextlib.suppress(BrokenPipeError):
            await backend.stop()
        assert engine.stops == 1

    run_instantly(scenario())


def test_an_engine_that_breaks_off_its_start_in_its_own_words_has_failed():
    # A factory of the user's own may not keep to the port's errors; "starting" would never end.
    async def scenario():
        stage = Stage()
        stage.engine.fail_start = [RuntimeError("No such device.")]
        with contextlib.suppress(Exception):
            await stage.backend.start()
        assert stage.backend.health.state is BackendState.FAILED

    run_instantly(scenario())


def test_a_probe_that_breaks_off_in_its_own_words_does_not_end_the_watch():
    async def scenario():
        async with started() as stage:
            stage.engine.fail_probe = RuntimeError("No such device.")
            await asyncio.sleep(2 * PROBE_INTERVAL_S)
            assert stage.backend.health.state is not BackendState.READY
            stage.engine.fail_probe = None
            assert await stage.news() is BackendState.READY

    run_instantly(scenario())


def test_a_state_tells_its_beginning_in_utc():
    since = Stage().backend.health.since
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", since)
    assert abs(datetime.fromisoformat(since) - datetime.now(UTC)) < timedelta(hours=1)


def test_a_state_keeps_its_beginning_while_its_reason_changes(monkeypatch):
    # A calendar that is a day further whenever it is looked at.
    days = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in itertools.count())
    calendar = SimpleNamespace(now=lambda _zone: next(days))
    monkeypatch.setattr(domain.policies.readiness, "datetime", calendar)

    async def scenario():
        stage = Stage()
        stage.engine.fail_start = [BackendUnavailableError("One."), BackendUnavailableError("Two.")]
        await stage.backend.start()
        assert [reason for _, reason in stage.told] == ["One.", "Two.", None]
        first, second, ready = stage.since
        assert first == second == "2026-01-01T00:00:00Z"
        assert ready > second
        await stage.backend.stop()

    run_instantly(scenario())


def test_the_same_news_are_told_once():
    async def scenario():
        stage = Stage()
        stage.engine.fail_start = [BackendUnavailableError("Same.") for _ in range(4)]
        await stage.backend.start()
        assert stage.told == [(BackendState.STARTING, "Same."), (BackendState.READY, None)]
        await stage.backend.stop()

    run_instantly(scenario())


def test_the_service_is_well_only_if_every_role_is():
    async def scenario():
        async with started() as ready:
            starting = Stage(Role.GENERATE)
            well = {Role.EMBED: ready.backend.health}
            assert service_health(well, tasks=1).status == "ok"
            both = service_health(well | {Role.GENERATE: starting.backend.health}, tasks=1)
            assert both.status == "unavailable"
            assert both.backends[Role.GENERATE].state is BackendState.STARTING

    run_instantly(scenario())


def test_what_a_start_is_doing_is_the_reason_for_its_state():
    class Slow(FakeBackend):
        async def start(self, on_step=ignore_step):
            on_step("loading the model")
            await asyncio.sleep(1)
            return await super().start(on_step)

    async def scenario():
        heard = []
        backend = ReadinessBackend(
            Slow(Role.EMBED), Role.EMBED, model="m", on_change=lambda _role, health: heard.append(health)
        )
        await backend.start()
        await backend.stop()
        return [(health.state, health.reason) for health in heard[:2]]

    assert run_instantly(scenario()) == [
        (BackendState.STARTING, "loading the model"),
        (BackendState.READY, None),
    ]


def test_a_step_that_is_told_too_late_changes_nothing():
    class Remembered(FakeBackend):
        async def start(self, on_step=ignore_step):
            self.tell = on_step
            return await super().start(on_step)

    async def scenario():
        fake = Remembered(Role.EMBED)
        backend = ReadinessBackend(fake, Role.EMBED, model="m")
        await backend.start()
        fake.tell("loading the model")
        after_start = backend.health.state
        await backend.stop()
        fake.tell("loading the model")
        return after_start, backend.health.state

    assert run_instantly(scenario()) == (BackendState.READY, BackendState.STOPPED)
