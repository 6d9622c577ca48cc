import array
import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from domain.errors import (
    BackendBusyError,
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    BackendUnreachableError,
)
from domain.health import BackendState
from domain.policies.balancing import GRACE_S, BalancingBackend
from domain.policies.batching import BatchingBackend
from domain.policies.circuit_breaker import CircuitBreaker
from domain.policies.embedding_cache import CachingBackend
from domain.policies.member import Member
from domain.policies.readiness import ReadinessBackend
from domain.port import RequestContext
from domain.requests import DetokenizeRequest, EmbeddingRequest, GenerationRequest, TokenizeRequest
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.calls import stream
from tests.fakes import FakeBackend
from tests.unit.waiting import now, run_instantly

CONTEXT = RequestContext(request_id="test")
TEXT = EmbeddingRequest(inputs=["text"])
PROMPT = GenerationRequest(prompt="x", sampling=SamplingParameters(max_tokens=3, temperature=0.0))
GONE = BackendUnreachableError("Gone.", retry_after_s=1)
COOL_DOWN_S = 4.0
SOON = 1.0
"""Longer than it takes to look again at a member that was ejected a moment ago."""
LONG = 20.0


class Other(FakeBackend):
    """Another model by the same name."""

    async def call(self, request, context):
        result = await super().call(request, context)
        width = result.dimensions
        rows = array.array("f", result.vectors)
        turned = [-number for number in rows] if width else []
        return type(result)(
            vectors=array.array("f", turned).tobytes(),
            dimensions=width,
            prompt_tokens=result.prompt_tokens,
            input_tokens=result.input_tokens,
        )


class Slow(FakeBackend):
    """Never gets ready."""

    async def start(self, on_step=None):
        await asyncio.sleep(10_000)


class Stage:
    def __init__(self, *engines: FakeBackend) -> None:
        self.engines = list(engines)
        self.members = [
            Member(
                engine,
                address=f"host:{number}",
                breaker=CircuitBreaker(now, failures=2, cool_down_s=COOL_DOWN_S),
                clock=now,
            )
            for number, engine in enumerate(engines, start=1)
        ]
        self.backend = BalancingBackend(self.members, setting="THE_URL")

    def states(self) -> list[BackendState]:
        return [member.state for member in self.backend.members()]

    async def everybody_asked(self) -> None:
        """As many requests as there are members, one for each."""
        for _ in self.members:
            await self.backend.call(TEXT, CONTEXT)

    async def asked(self, request: EmbeddingRequest = TEXT) -> int:
        """Which of the members gets a request."""
        before = [len(engine.seen) for engine in self.engines]
        await self.backend.call(request, CONTEXT)
        (number,) = [
            number
            for number, (then, engine) in enumerate(zip(before, self.engines, strict=True))
            if len(engine.seen) > then
        ]
        return number


@contextlib.asynccontextmanager
async def started(*engines: FakeBackend) -> AsyncGenerator[Stage, None]:
    stage = Stage(*(engines or [FakeBackend(Role.EMBED) for _ in range(3)]))
    await stage.backend.start()
    try:
        yield stage
    finally:
        await stage.backend.stop()


def vanish(engine: FakeBackend) -> None:
    """As a process that has ended: no connection, whatever is asked."""
    engine.fail_probe = GONE
    engine.fail_start = [GONE] * 1000


def come_back(engine: FakeBackend) -> None:
    engine.fail_probe = None
    engine.fail_start = []


def embedders(count: int, **options) -> list[FakeBackend]:
    return [FakeBackend(Role.EMBED, **options) for _ in range(count)]


READY, AWAY, STARTING = BackendState.READY, BackendState.UNAVAILABLE, BackendState.STARTING


def test_idle_members_are_asked_in_turn():
    async def scenario():
        async with started() as stage:
            assert sorted([await stage.asked() for _ in range(3)]) == [0, 1, 2]
            assert [await stage.asked() for _ in range(3)] == [await stage.asked() for _ in range(3)]

    run_instantly(scenario())


def test_the_one_with_the_least_to_do_is_asked():
    async def scenario():
        async with started() as stage:
            for member, outstanding in zip(stage.members, [5, 2, 4], strict=True):
                member.outstanding = outstanding
            assert [await stage.asked() for _ in range(4)] == [1] * 4

    run_instantly(scenario())


def test_much_work_in_one_request_counts_as_much():
    async def scenario():
        async with started(*embedders(2, delay_s=1)) as stage:
            large = EmbeddingRequest(inputs=["text"] * 10)
            await asyncio.gather(
                stage.backend.call(large, CONTEXT),
                *(stage.backend.call(TEXT, CONTEXT) for _ in range(9)),
            )
            sizes = [[len(request.inputs) for request in engine.seen[1:]] for engine in stage.engines]
            assert sorted(sizes) == [[1] * 9, [10]]

    run_instantly(scenario())


def test_a_busy_one_is_asked_only_if_all_are():
    async def scenario():
        async with started(*embedders(2)) as stage:
            stage.engines[0].fail_next = BackendBusyError("Busy.", retry_after_s=3)
            with pytest.raises(BackendBusyError):
                await stage.everybody_asked()
            assert stage.backend.has_free()
            assert [await stage.asked() for _ in range(4)] == [1] * 4
            stage.engines[1].fail_next = BackendBusyError("Busy.", retry_after_s=3)
            with pytest.raises(BackendBusyError):
                await stage.backend.call(TEXT, CONTEXT)
            assert not stage.backend.has_free()
            assert {await stage.asked() for _ in range(4)} == {0, 1}
            await asyncio.sleep(3)
            assert stage.backend.has_free()
            assert stage.states() == [READY, READY]

    run_instantly(scenario())


def test_one_that_is_gone_gets_no_more_requests_until_it_is_back():
    async def scenario():
        async with started(*embedders(2)) as stage:
            vanish(stage.engines[0])
            stage.engines[0].fail_next = GONE
            with pytest.raises(BackendUnreachableError):
                await stage.everybody_asked()
            assert stage.states() == [AWAY, READY]
            assert [await stage.asked() for _ in range(3)] == [1] * 3
            await asyncio.sleep(LONG)
            assert stage.states() == [AWAY, READY]
            assert stage.members[0].health().last_error == "Gone."
            come_back(stage.engines[0])
            await asyncio.sleep(LONG)
            assert stage.states() == [READY, READY]
            assert {await stage.asked() for _ in range(2)} == {0, 1}
            assert [member.ejections for member in stage.backend.members()] == [1, 0]

    run_instantly(scenario())


def test_one_that_only_lost_a_connection_is_back_in_a_moment():
    async def scenario():
        async with started(*embedders(2)) as stage:
            stage.engines[0].fail_next = GONE
            with pytest.raises(BackendUnreachableError):
                await stage.everybody_asked()
            assert stage.states() == [AWAY, READY]
            await asyncio.sleep(SOON)
            assert stage.states() == [READY, READY]

    run_instantly(scenario())


def test_one_that_goes_while_nobody_asks_is_ejected_by_its_probe():
    async def scenario():
        async with started(*embedders(2)) as stage:
            vanish(stage.engines[1])
            await asyncio.sleep(6)
            assert stage.states() == [READY, AWAY]
            await stage.backend.probe()

    run_instantly(scenario())


def test_a_probe_may_be_late_once():
    async def scenario():
        async with started(*embedders(2)) as stage:
            stage.engines[1].fail_probe = BackendTimeoutError("Silent.")
            await asyncio.sleep(5.1)
            assert stage.states() == [READY, READY]
            await asyncio.sleep(SOON)
            assert stage.states() == [READY, AWAY]

    run_instantly(scenario())


def test_and_once_more_if_it_has_answered_meanwhile():
    class OftenLate(FakeBackend):
        probes = 0

        async def probe(self):
            self.probes += 1
            if self.probes % 2:
                raise BackendTimeoutError("Silent.")

    async def scenario():
        engine = OftenLate(Role.EMBED)
        async with started(engine, *embedders(1)) as stage:
            await asyncio.sleep(6 * LONG)
            assert engine.probes > 10
            assert [member.ejections for member in stage.backend.members()] == [0, 0]

    run_instantly(scenario())


def test_a_request_that_was_not_answered_makes_look_at_once():
    async def scenario():
        async with started(*embedders(2)) as stage:
            stage.engines[0].fail_next = BackendTimeoutError("Silent.")
            stage.engines[0].fail_probe = BackendTimeoutError("Silent.")
            with pytest.raises(BackendTimeoutError):
                await stage.everybody_asked()
            assert stage.states() == [READY, READY]
            await asyncio.sleep(SOON)
            assert stage.states() == [AWAY, READY]

    run_instantly(scenario())


def test_a_failed_request_ejects_nobody():
    async def scenario():
        async with started(*embedders(2)) as stage:
            stage.engines[0].fail_next = BackendFailedError("Failed on this one.")
            with pytest.raises(BackendFailedError):
                await stage.everybody_asked()
            await asyncio.sleep(LONG)
            assert stage.states() == [READY, READY]

    run_instantly(scenario())


def test_one_whose_breaker_is_open_is_passed_over_and_then_tried():
    async def scenario():
        async with started(*embedders(2)) as stage:
            breaker = stage.members[0].breaker
            for _ in range(2):
                breaker.failed(is_silent=True)
            assert [await stage.asked() for _ in range(3)] == [1] * 3
            await asyncio.sleep(COOL_DOWN_S)
            assert 0 in [await stage.asked() for _ in range(2)]
            assert {await stage.asked() for _ in range(2)} == {0, 1}

    run_instantly(scenario())


def test_if_all_breakers_are_open_the_client_is_told_for_how_long():
    async def scenario():
        async with started(*embedders(2)) as stage:
            for member in stage.members:
                for _ in range(2):
                    member.breaker.failed(is_silent=True)
                await asyncio.sleep(1)
            with pytest.raises(BackendUnavailableError, match="failed too often") as caught:
                await stage.backend.call(TEXT, CONTEXT)
            assert caught.value.retry_after_s == COOL_DOWN_S - 2
            assert not isinstance(caught.value, BackendUnreachableError)

    run_instantly(scenario())


def test_without_anybody_left_it_is_not_ready_and_is_again_with_the_first_who_is_back():
    async def scenario():
        async with started(*embedders(2)) as stage:
            for engine in stage.engines:
                vanish(engine)
            await asyncio.sleep(LONG)
            with pytest.raises(BackendUnavailableError):
                await stage.backend.probe()
            with pytest.raises(BackendUnreachableError, match="None"):
                await stage.backend.call(TEXT, CONTEXT)
            come_back(stage.engines[1])
            await asyncio.sleep(LONG)
            await stage.backend.probe()
            assert await stage.asked() == 1

    run_instantly(scenario())


def test_a_generation_without_anybody_left_fails_before_it_begins():
    async def scenario():
        async with started(FakeBackend(Role.GENERATE)) as stage:
            vanish(stage.engines[0])
            await asyncio.sleep(LONG)
            generation = stage.backend.stream(PROMPT, CONTEXT)
            with pytest.raises(BackendUnreachableError):
                await generation.__aenter__()

    run_instantly(scenario())


def test_generations_are_dealt_out_by_their_number():
    async def scenario():
        engines = [FakeBackend(Role.GENERATE) for _ in range(2)]
        async with started(*engines) as stage:
            streams = [stream(stage.backend, PROMPT, CONTEXT) for _ in range(4)]
            for events in streams:
                await anext(events)
            assert [engine.running for engine in engines] == [2, 2]
            for events in streams:
                await events.aclose()
            assert [member.outstanding for member in stage.backend.members()] == [0, 0]

    run_instantly(scenario())


def test_tokens_are_anybodys_business():
    async def scenario():
        async with started() as stage:
            found = await stage.backend.call(TokenizeRequest(prompt="ab"), CONTEXT)
            assert found.token_ids == [97, 98]
            assert await stage.backend.call(DetokenizeRequest(token_ids=[97, 98]), CONTEXT) == "ab"

    run_instantly(scenario())


def test_those_who_are_not_up_yet_hold_nobody_up():
    async def scenario():
        late = FakeBackend(Role.EMBED)
        late.fail_start = [GONE]
        async with started(late, Slow(Role.EMBED), FakeBackend(Role.EMBED)) as stage:
            assert now() <= GRACE_S
            assert stage.states() == [STARTING, STARTING, READY]
            await asyncio.sleep(SOON)
            assert stage.states() == [READY, STARTING, READY]
            assert {await stage.asked() for _ in range(4)} == {0, 2}

    run_instantly(scenario())


def test_with_nobody_up_a_start_may_be_tried_again_and_tells_why():
    async def scenario():
        stage = Stage(*embedders(2))
        for engine, word in zip(stage.engines, ["One.", "Two."], strict=True):
            engine.fail_start = [BackendUnreachableError(word)]
        with pytest.raises(BackendUnavailableError) as caught:
            await stage.backend.start()
        for part in ("THE_URL", "host:1", "One.", "host:2", "Two."):
            assert part in caught.value.message
        assert [member.last_error for member in stage.backend.members()] == ["One.", "Two."]
        assert (await stage.backend.start()).name == "fake"
        await stage.backend.stop()

    run_instantly(scenario())


def test_with_nobody_who_can_a_start_has_failed():
    async def scenario():
        stage = Stage(*embedders(2))
        for engine in stage.engines:
            engine.fail_start = [BackendFailedError("No vLLM server.")]
        with pytest.raises(BackendFailedError, match=r"host:2.*No vLLM server\."):
            await stage.backend.start()
        await stage.backend.stop()

    run_instantly(scenario())


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (FakeBackend(Role.EMBED, name="other"), "serves 'other'"),
        (FakeBackend(Role.EMBED, max_model_len=64), "64 tokens instead of 256"),
        (Other(Role.EMBED), "other vectors"),
    ],
    ids=["name", "context", "vectors"],
)
def test_servers_of_different_models_are_named_at_the_start(other, told):
    async def scenario():
        stage = Stage(FakeBackend(Role.EMBED), other)
        with pytest.raises(BackendFailedError) as caught:
            await stage.backend.start()
        for part in ("THE_URL", "number 1 (host:1)", "'fake'", "number 2 (host:2)", told):
            assert part in caught.value.message
        await stage.backend.stop()

    run_instantly(scenario())


def test_one_that_comes_back_with_another_model_stays_out():
    async def scenario():
        async with started(*embedders(2)) as stage:
            vanish(stage.engines[0])
            await asyncio.sleep(LONG)
            come_back(stage.engines[0])
            stage.engines[0].name = "other"
            await asyncio.sleep(LONG)
            assert stage.states() == [BackendState.FAILED, READY]
            assert "serves 'other'" in str(stage.members[0].health().last_error)
            assert [await stage.asked() for _ in range(3)] == [1] * 3
            stage.engines[0].name = "fake"
            await asyncio.sleep(LONG)
            assert stage.states() == [READY, READY]

    run_instantly(scenario())


def test_if_all_were_replaced_the_new_model_is_the_model():
    async def scenario():
        async with started(*embedders(2)) as stage:
            for engine in stage.engines:
                vanish(engine)
            await asyncio.sleep(LONG)
            for engine in stage.engines:
                come_back(engine)
                engine.max_model_len = 64
            await asyncio.sleep(LONG)
            assert stage.states() == [READY, READY]

    run_instantly(scenario())


@pytest.mark.parametrize("tells", [(True, True), (True, False), (False, True)])
def test_tokens_of_each_input_are_told_if_all_members_tell(tells):
    async def scenario():
        stage = Stage(*embedders(2))
        for engine, one in zip(stage.engines, tells, strict=True):
            engine.reports_tokens_per_input = one
        card = await stage.backend.start()
        assert card.reports_tokens_per_input is all(tells)
        assert card.dimensions == 8
        await stage.backend.stop()

    run_instantly(scenario())


def test_vectors_that_were_kept_are_dropped_when_a_member_is_back():
    async def scenario():
        async with started(*embedders(2)) as stage:
            cache = CachingBackend(stage.backend, max_bytes=2**20)
            stage.backend.on_readmit = cache.clear
            await cache.start()
            await cache.call(TEXT, CONTEXT)
            vanish(stage.engines[0])
            await asyncio.sleep(LONG)
            assert cache.stats.entries == 1, "the other one's vectors are as good as before"
            come_back(stage.engines[0])
            await asyncio.sleep(LONG)
            assert cache.stats.entries == 0

    run_instantly(scenario())


def test_a_member_that_tells_less_than_the_others_costs_no_answer():
    async def scenario():
        async with started(*embedders(2)) as stage:
            stack = CachingBackend(BatchingBackend(stage.backend), max_bytes=2**20)
            await stack.start()
            for engine in stage.engines:
                engine.reports_tokens_per_input = False
            result = await stack.call(EmbeddingRequest(inputs=["a", "bb", "ccc"]), CONTEXT)
            assert result.input_tokens == [1, 2, 3]
            alone = [await stack.call(EmbeddingRequest(inputs=[text]), CONTEXT) for text in ("a", "bb", "ccc")]
            assert result.vectors == b"".join(one.vectors for one in alone)

    run_instantly(scenario())


def test_a_stop_ends_members_and_watches():
    async def scenario():
        async with started(*embedders(2)) as stage:
            await stage.backend.stop()
            assert [engine.stops for engine in stage.engines] == [1, 1]
            assert stage.states() == [BackendState.STOPPED] * 2
            with pytest.raises(BackendUnavailableError):
                await stage.backend.probe()
            assert len(asyncio.all_tasks()) == 1

    run_instantly(scenario())


def test_a_role_is_ready_with_one_of_its_servers_and_shows_all():
    async def scenario():
        stage = Stage(*embedders(2))
        vanish(stage.engines[0])
        role = ReadinessBackend(stage.backend, Role.EMBED, model=None)
        await role.start()
        assert role.health.state is READY
        assert [(one.address, one.state) for one in role.health.members or []] == [
            ("host:1", STARTING),
            ("host:2", READY),
        ]
        vanish(stage.engines[1])
        await asyncio.sleep(LONG)
        assert role.health.state is AWAY
        come_back(stage.engines[0])
        await asyncio.sleep(LONG)
        assert role.health.state is READY
        await role.stop()

    run_instantly(scenario())
