"""Restarts of lost engines."""

import asyncio

import pytest

from domain.errors import BackendFailedError, BackendUnavailableError, EngineDiedError, EngineHungError
from domain.health import BackendState
from domain.policies.restarts import RestartRules, Restarts
from domain.policies.supervision import SupervisionBackend
from domain.roles import Role
from tests.fakes import FakeBackend
from tests.unit.test_supervision import CONTEXT, PROBE_INTERVAL_S, TEXT
from tests.unit.waiting import now, run_instantly

RULES = RestartRules(limit=3, window_s=100, first_delay_s=1, longest_delay_s=3, slow_s=50)


class LosableBackend(FakeBackend):
    """A fake that can be lost, and recovers with a restart."""

    lost: Exception | None = None

    async def start(self, *arguments):
        card = await super().start(*arguments)
        self.lost = None
        return card

    async def probe(self):
        if self.lost is not None:
            raise self.lost


class Harness:
    def __init__(self, engine: type[LosableBackend] = LosableBackend) -> None:
        self.engine = engine(Role.EMBED, name="fake")
        self.fails = False
        self.reported: list[tuple[float, BackendState]] = []
        self.backend = SupervisionBackend(
            self.engine,
            Role.EMBED,
            model="fake",
            probe_interval_s=PROBE_INTERVAL_S,
            restart_rules=RULES,
            on_change=self._record,
        )

    def _record(self, _role, health) -> None:
        if self.fails:
            raise BrokenPipeError
        self.reported.append((now(), health.state))

    @property
    def states(self) -> list[BackendState]:
        return [state for _, state in self.reported]


def test_restart_delays_grow_up_to_the_crash_loop_delay():
    restarts = Restarts(RestartRules(limit=5, window_s=100, first_delay_s=1, longest_delay_s=3, slow_s=50))
    assert [restarts.lost(now=second) for second in range(5)] == [1, 2, 3, 3, 50]
    assert restarts.is_crash_loop
    assert restarts.count == 5


def test_old_losses_are_not_counted():
    restarts = Restarts(RULES)
    assert [restarts.lost(now=0), restarts.lost(now=1)] == [1, 2]
    assert restarts.lost(now=101.5) == 1
    assert not restarts.is_crash_loop


@pytest.mark.parametrize(
    ("error", "state"),
    [(EngineDiedError("It ended."), BackendState.DEAD), (EngineHungError("It hangs."), BackendState.HUNG)],
)
def test_a_lost_engine_is_stopped_and_restarted(error, state):
    async def scenario():
        harness = Harness()
        await harness.backend.start()
        harness.engine.lost = error
        await asyncio.sleep(PROBE_INTERVAL_S + 2)
        assert harness.states == [BackendState.READY, state, BackendState.STARTING, BackendState.READY]
        assert harness.engine.stops >= 1
        health = harness.backend.health
        assert (health.restarts, health.reason, health.last_error.message) == (1, None, error.message)
        assert (await harness.backend.call(TEXT, CONTEXT)).prompt_tokens == 4
        await harness.backend.stop()

    run_instantly(scenario())


def test_requests_during_a_restart_get_retry_after():
    async def scenario():
        harness = Harness()
        await harness.backend.start()
        harness.engine.lost = EngineDiedError("It ended.")
        await asyncio.sleep(PROBE_INTERVAL_S + 0.5)
        with pytest.raises(BackendUnavailableError) as caught:
            await harness.backend.call(TEXT, CONTEXT)
        assert caught.value.retry_after_s == 5
        await harness.backend.stop()

    run_instantly(scenario())


def test_an_engine_in_a_crash_loop_is_restarted_after_a_long_delay():
    async def scenario():
        harness = Harness()
        await harness.backend.start()
        for _ in range(3):
            harness.engine.lost = EngineDiedError("It ended.")
            await asyncio.sleep(PROBE_INTERVAL_S + 4)
        assert harness.states[-1] is BackendState.FAILED
        assert "lost 3 times within" in harness.backend.health.reason
        assert "It ended." in harness.backend.health.reason
        await asyncio.sleep(RULES.slow_s)
        assert harness.states[-1] is BackendState.READY
        await harness.backend.stop()

    run_instantly(scenario())


def test_a_failed_start_is_retried_after_a_long_delay():
    async def scenario():
        harness = Harness()
        harness.engine.fail_start = [BackendFailedError("No memory."), BackendFailedError("No memory.")]
        with pytest.raises(BackendFailedError):
            await harness.backend.start()
        await asyncio.sleep(RULES.slow_s - 1)
        assert harness.states == [BackendState.FAILED]
        await asyncio.sleep(2 * RULES.slow_s)
        assert harness.states[-2:] == [BackendState.STARTING, BackendState.READY]
        await harness.backend.stop()

    run_instantly(scenario())


def test_a_failed_engine_is_restarted_on_request():
    async def scenario():
        harness = Harness()
        harness.engine.fail_start = [BackendFailedError("No memory.")]
        with pytest.raises(BackendFailedError):
            await harness.backend.start()
        await asyncio.sleep(1)
        assert harness.backend.restart()
        await asyncio.sleep(0.1)
        assert harness.states[-1] is BackendState.READY
        assert not harness.backend.restart(), "a ready engine is not restarted"
        await harness.backend.stop()

    run_instantly(scenario())


def test_a_failed_restart_is_retried_after_a_long_delay():
    async def scenario():
        harness = Harness()
        await harness.backend.start()
        harness.engine.lost = EngineDiedError("It ended.")
        harness.engine.fail_start = [BackendFailedError("No memory.")]
        await asyncio.sleep(PROBE_INTERVAL_S + 2)
        assert harness.states[-1] is BackendState.FAILED
        await asyncio.sleep(RULES.slow_s)
        assert harness.states[-1] is BackendState.READY
        await harness.backend.stop()

    run_instantly(scenario())


def test_a_failing_listener_does_not_end_monitoring():
    async def scenario():
        harness = Harness()
        await harness.backend.start()
        harness.fails = True
        harness.engine.lost = EngineDiedError("It ended.")
        await asyncio.sleep(PROBE_INTERVAL_S + 1)
        harness.fails = False
        await asyncio.sleep(3 * PROBE_INTERVAL_S)
        assert harness.backend.health.state is BackendState.READY
        await harness.backend.stop()

    run_instantly(scenario())


def test_an_engine_that_fails_to_stop_is_replaced():
    class Stuck(LosableBackend):
        async def stop(self):
            await super().stop()
            raise OSError("It does not end.")

    async def scenario():
        harness = Harness(Stuck)
        await harness.backend.start()
        harness.engine.lost = EngineHungError("It hangs.")
        await asyncio.sleep(PROBE_INTERVAL_S + 2)
        assert harness.backend.health.state is BackendState.READY
        assert harness.backend.health.restarts == 1

    run_instantly(scenario())


def test_a_stop_cancels_a_pending_restart():
    async def scenario():
        harness = Harness()
        await harness.backend.start()
        harness.engine.lost = EngineDiedError("It ended.")
        await asyncio.sleep(PROBE_INTERVAL_S + 0.5)
        await harness.backend.stop()
        await asyncio.sleep(100)
        assert harness.states == [BackendState.READY, BackendState.DEAD, BackendState.STOPPED]
        assert not harness.engine.started

    run_instantly(scenario())


def test_draining_rejects_new_requests_and_finishes_running_ones():
    async def scenario():
        harness = Harness()
        harness.engine.delay_s = 10
        await harness.backend.start()
        running = asyncio.create_task(harness.backend.call(TEXT, CONTEXT))
        await asyncio.sleep(1)
        harness.backend.drain()
        assert harness.backend.health.state is BackendState.DRAINING
        with pytest.raises(BackendUnavailableError, match="is stopping"):
            await harness.backend.call(TEXT, CONTEXT)
        assert (await running).prompt_tokens == 4
        await asyncio.sleep(2 * PROBE_INTERVAL_S)
        assert harness.backend.health.state is BackendState.DRAINING, "a probe does not change the state"
        await harness.backend.stop()

    run_instantly(scenario())
