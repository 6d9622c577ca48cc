"""When a lost engine is started again."""

import asyncio

import pytest

from domain.errors import BackendFailedError, BackendUnavailableError, EngineDiedError, EngineHungError
from domain.health import BackendState
from domain.policies.readiness import ReadinessBackend
from domain.policies.restarts import RestartRules, Restarts
from domain.roles import Role
from tests.fakes import FakeBackend
from tests.unit.test_readiness import CONTEXT, PROBE_INTERVAL_S, TEXT
from tests.unit.waiting import now, run_instantly

RULES = RestartRules(limit=3, window_s=100, first_delay_s=1, longest_delay_s=3, slow_s=50)


class MortalBackend(FakeBackend):
    """A fake that can be lost, and is well again when it was stopped and started."""

    lost: Exception | None = None

    async def start(self, *arguments):
        card = await super().start(*arguments)
        self.lost = None
        return card

    async def probe(self):
        if self.lost is not None:
            raise self.lost


class Stage:
    def __init__(self, engine: type[MortalBackend] = MortalBackend) -> None:
        self.engine = engine(Role.EMBED, name="fake")
        self.fails = False
        self.told: list[tuple[float, BackendState]] = []
        self.backend = ReadinessBackend(
            self.engine,
            Role.EMBED,
            model="fake",
            probe_interval_s=PROBE_INTERVAL_S,
            restart_rules=RULES,
            on_change=self._heard,
        )

    def _heard(self, _role, health) -> None:
        if self.fails:
            raise BrokenPipeError
        self.told.append((now(), health.state))

    @property
    def states(self) -> list[BackendState]:
        return [state for _, state in self.told]


def test_losses_are_answered_ever_later_and_after_too_many_seldom():
    restarts = Restarts(RestartRules(limit=5, window_s=100, first_delay_s=1, longest_delay_s=3, slow_s=50))
    assert [restarts.lost(now=second) for second in range(5)] == [1, 2, 3, 3, 50]
    assert restarts.is_crash_loop
    assert restarts.count == 5


def test_losses_long_ago_are_forgotten():
    restarts = Restarts(RULES)
    assert [restarts.lost(now=0), restarts.lost(now=1)] == [1, 2]
    assert restarts.lost(now=101.5) == 1
    assert not restarts.is_crash_loop


@pytest.mark.parametrize(
    ("error", "state"),
    [(EngineDiedError("It ended."), BackendState.DEAD), (EngineHungError("It hangs."), BackendState.HUNG)],
)
def test_a_lost_engine_is_ended_and_started_again(error, state):
    async def scenario():
        stage = Stage()
        await stage.backend.start()
        stage.engine.lost = error
        await asyncio.sleep(PROBE_INTERVAL_S + 2)
        assert stage.states == [BackendState.READY, state, BackendState.STARTING, BackendState.READY]
        assert stage.engine.stops >= 1
        health = stage.backend.health
        assert (health.restarts, health.reason, health.last_error.message) == (1, None, error.message)
        assert (await stage.backend.call(TEXT, CONTEXT)).prompt_tokens == 4
        await stage.backend.stop()

    run_instantly(scenario())


def test_requests_meanwhile_are_told_to_come_back():
    async def scenario():
        stage = Stage()
        await stage.backend.start()
        stage.engine.lost = EngineDiedError("It ended.")
        await asyncio.sleep(PROBE_INTERVAL_S + 0.5)
        with pytest.raises(BackendUnavailableError) as caught:
            await stage.backend.call(TEXT, CONTEXT)
        assert caught.value.retry_after_s == 5
        await stage.backend.stop()

    run_instantly(scenario())


def test_an_engine_lost_too_often_is_left_alone_for_long():
    async def scenario():
        stage = Stage()
        await stage.backend.start()
        for _ in range(3):
            stage.engine.lost = EngineDiedError("It ended.")
            await asyncio.sleep(PROBE_INTERVAL_S + 4)
        assert stage.states[-1] is BackendState.FAILED
        assert "lost 3 times within" in stage.backend.health.reason
        assert "It ended." in stage.backend.health.reason
        await asyncio.sleep(RULES.slow_s)
        assert stage.states[-1] is BackendState.READY
        await stage.backend.stop()

    run_instantly(scenario())


def test_a_start_that_failed_is_tried_again_after_a_long_while():
    async def scenario():
        stage = Stage()
        stage.engine.fail_start = [BackendFailedError("No memory."), BackendFailedError("No memory.")]
        with pytest.raises(BackendFailedError):
            await stage.backend.start()
        await asyncio.sleep(RULES.slow_s - 1)
        assert stage.states == [BackendState.FAILED]
        await asyncio.sleep(2 * RULES.slow_s)
        assert stage.states[-2:] == [BackendState.STARTING, BackendState.READY]
        await stage.backend.stop()

    run_instantly(scenario())


def test_a_failed_engine_is_started_at_once_when_told_to():
    async def scenario():
        stage = Stage()
        stage.engine.fail_start = [BackendFailedError("No memory.")]
        with pytest.raises(BackendFailedError):
            await stage.backend.start()
        await asyncio.sleep(1)
        assert stage.backend.restart()
        await asyncio.sleep(0.1)
        assert stage.states[-1] is BackendState.READY
        assert not stage.backend.restart(), "there is nothing to bring back"
        await stage.backend.stop()

    run_instantly(scenario())


def test_a_new_engine_that_cannot_start_is_tried_again_after_a_long_while():
    async def scenario():
        stage = Stage()
        await stage.backend.start()
        stage.engine.lost = EngineDiedError("It ended.")
        stage.engine.fail_start = [BackendFailedError("No memory.")]
        await asyncio.sleep(PROBE_INTERVAL_S + 2)
        assert stage.states[-1] is BackendState.FAILED
        await asyncio.sleep(RULES.slow_s)
        assert stage.states[-1] is BackendState.READY
        await stage.backend.stop()

    run_instantly(scenario())


def test_a_listener_that_fails_does_not_end_the_watch():
    async def scenario():
        stage = Stage()
        await stage.backend.start()
        stage.fails = True
        stage.engine.lost = EngineDiedError("It ended.")
        await asyncio.sleep(PROBE_INTERVAL_S + 1)
        stage.fails = False
        await asyncio.sleep(3 * PROBE_INTERVAL_S)
        assert stage.backend.health.state is BackendState.READY
        await stage.backend.stop()

    run_instantly(scenario())


def test_an_engine_that_does_not_end_in_good_order_is_replaced_all_the_same():
    class Stuck(MortalBackend):
        async def stop(self):
            await super().stop()
            raise OSError("It does not end.")

    async def scenario():
        stage = Stage(Stuck)
        await stage.backend.start()
        stage.engine.lost = EngineHungError("It hangs.")
        await asyncio.sleep(PROBE_INTERVAL_S + 2)
        assert stage.backend.health.state is BackendState.READY
        assert stage.backend.health.restarts == 1

    run_instantly(scenario())


def test_a_stop_ends_the_waiting_for_a_restart():
    async def scenario():
        stage = Stage()
        await stage.backend.start()
        stage.engine.lost = EngineDiedError("It ended.")
        await asyncio.sleep(PROBE_INTERVAL_S + 0.5)
        await stage.backend.stop()
        await asyncio.sleep(100)
        assert stage.states == [BackendState.READY, BackendState.DEAD, BackendState.STOPPED]
        assert not stage.engine.started

    run_instantly(scenario())


def test_a_service_that_drains_takes_nothing_new_and_finishes_the_rest():
    async def scenario():
        stage = Stage()
        stage.engine.delay_s = 10
        await stage.backend.start()
        under_way = asyncio.create_task(stage.backend.call(TEXT, CONTEXT))
        await asyncio.sleep(1)
        stage.backend.drain()
        assert stage.backend.health.state is BackendState.DRAINING
        with pytest.raises(BackendUnavailableError, match="is stopping"):
            await stage.backend.call(TEXT, CONTEXT)
        assert (await under_way).prompt_tokens == 4
        await asyncio.sleep(2 * PROBE_INTERVAL_S)
        assert stage.backend.health.state is BackendState.DRAINING, "a probe changes nothing about it"
        await stage.backend.stop()

    run_instantly(scenario())
