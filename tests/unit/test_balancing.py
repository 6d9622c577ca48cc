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
from domain.policies.supervision import SupervisionBackend
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
SHORT_S = 1.0
"""Longer than the first delay before an ejected member is probed again."""
LONG_S = 20.0


class Other(FakeBackend):
    """A different model with the same name."""

    async def call(self, request, context):
        result = await super().call(request, context)
        width = result.dimensions
        rows = array.array("f", result.vectors)
        negated = [-number for number in rows] if width else []
        return type(result)(
            vectors=array.array("f", negated).tobytes(),
            dimensions=width,
            prompt_tokens=result.prompt_tokens,
            input_tokens=result.input_tokens,
        )


class Slow(FakeBackend):
    """Never becomes ready."""

    async def start(self, on_step=None):
        await asyncio.sleep(10_000)


class Harness:
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

    async def call_each_member(self) -> None:
        """Send as many requests as there are members, one to each."""
        for _ in self.members:
            await self.backend.call(TEXT, CONTEXT)

    async def chosen(self, request: EmbeddingRequest = TEXT) -> int:
        """Send a request, and return the index of the member that gets it."""
        before = [len(engine.seen) for engine in self.engines]
        await self.backend.call(request, CONTEXT)
        (number,) = [
            number
            for number, (then, engine) in enumerate(zip(before, self.engines, strict=True))
            if len(engine.seen) > then
        ]
        return number


@contextlib.asynccontextmanager
async def started(*engines: FakeBackend) -> AsyncGenerator[Harness, None]:
    harness = Harness(*(engines or [FakeBackend(Role.EMBED) for _ in range(3)]))
    await harness.backend.start()
    try:
        yield harness
    finally:
        await harness.backend.stop()


def disconnect(engine: FakeBackend) -> None:
    """Make a member unreachable, like an ended process."""
    engine.fail_probe = GONE
    engine.fail_start = [GONE] * 1000


def reconnect(engine: FakeBackend) -> None:
    engine.fail_probe = None
    engine.fail_start = []


def embedders(count: int, **options) -> list[FakeBackend]:
    return [FakeBackend(Role.EMBED, **options) for _ in range(count)]


READY, UNAVAILABLE, STARTING = BackendState.READY, BackendState.UNAVAILABLE, BackendState.STARTING


def test_idle_members_are_chosen_round_robin():
    async def scenario():
        async with started() as harness:
            assert sorted([await harness.chosen() for _ in range(3)]) == [0, 1, 2]
            assert [await harness.chosen() for _ in range(3)] == [await harness.chosen() for _ in range(3)]

    run_instantly(scenario())


def test_the_least_loaded_member_is_chosen():
    async def scenario():
        async with started() as harness:
            for member, outstanding in zip(harness.members, [5, 2, 4], strict=True):
                member.outstanding = outstanding
            assert [await harness.chosen() for _ in range(4)] == [1] * 4

    run_instantly(scenario())


def test_load_counts_inputs_and_not_requests():
    async def scenario():
        async with started(*embedders(2, delay_s=1)) as harness:
            large = EmbeddingRequest(inputs=["text"] * 10)
            await asyncio.gather(
                harness.backend.call(large, CONTEXT),
                *(harness.backend.call(TEXT, CONTEXT) for _ in range(9)),
            )
            sizes = [[len(request.inputs) for request in engine.seen[1:]] for engine in harness.engines]
            assert sorted(sizes) == [[1] * 9, [10]]

    run_instantly(scenario())


def test_a_busy_member_is_chosen_only_if_all_are_busy():
    async def scenario():
        async with started(*embedders(2)) as harness:
            harness.engines[0].fail_next = BackendBusyError("Busy.", retry_after_s=3)
            with pytest.raises(BackendBusyError):
                await harness.call_each_member()
            assert harness.backend.has_free()
            assert [await harness.chosen() for _ in range(4)] == [1] * 4
            harness.engines[1].fail_next = BackendBusyError("Busy.", retry_after_s=3)
            with pytest.raises(BackendBusyError):
                await harness.backend.call(TEXT, CONTEXT)
            assert not harness.backend.has_free()
            assert {await harness.chosen() for _ in range(4)} == {0, 1}
            await asyncio.sleep(3)
            assert harness.backend.has_free()
            assert harness.states() == [READY, READY]

    run_instantly(scenario())


def test_an_unreachable_member_gets_no_requests_until_it_is_back():
    async def scenario():
        async with started(*embedders(2)) as harness:
            disconnect(harness.engines[0])
            harness.engines[0].fail_next = GONE
            with pytest.raises(BackendUnreachableError):
                await harness.call_each_member()
            assert harness.states() == [UNAVAILABLE, READY]
            assert [await harness.chosen() for _ in range(3)] == [1] * 3
            await asyncio.sleep(LONG_S)
            assert harness.states() == [UNAVAILABLE, READY]
            assert harness.members[0].health().last_error == "Gone."
            reconnect(harness.engines[0])
            await asyncio.sleep(LONG_S)
            assert harness.states() == [READY, READY]
            assert {await harness.chosen() for _ in range(2)} == {0, 1}
            assert [member.ejections for member in harness.backend.members()] == [1, 0]

    run_instantly(scenario())


def test_a_member_that_lost_one_connection_is_readmitted_soon():
    async def scenario():
        async with started(*embedders(2)) as harness:
            harness.engines[0].fail_next = GONE
            with pytest.raises(BackendUnreachableError):
                await harness.call_each_member()
            assert harness.states() == [UNAVAILABLE, READY]
            await asyncio.sleep(SHORT_S)
            assert harness.states() == [READY, READY]

    run_instantly(scenario())


def test_an_idle_member_is_ejected_by_its_probe():
    async def scenario():
        async with started(*embedders(2)) as harness:
            disconnect(harness.engines[1])
            await asyncio.sleep(6)
            assert harness.states() == [READY, UNAVAILABLE]
            await harness.backend.probe()

    run_instantly(scenario())


def test_a_single_probe_timeout_does_not_eject():
    async def scenario():
        async with started(*embedders(2)) as harness:
            harness.engines[1].fail_probe = BackendTimeoutError("Silent.")
            await asyncio.sleep(5.1)
            assert harness.states() == [READY, READY]
            await asyncio.sleep(SHORT_S)
            assert harness.states() == [READY, UNAVAILABLE]

    run_instantly(scenario())


def test_probe_timeouts_that_are_not_consecutive_do_not_eject():
    class OftenLate(FakeBackend):
        probes = 0

        async def probe(self):
            self.probes += 1
            if self.probes % 2:
                raise BackendTimeoutError("Silent.")

    async def scenario():
        engine = OftenLate(Role.EMBED)
        async with started(engine, *embedders(1)) as harness:
            await asyncio.sleep(6 * LONG_S)
            assert engine.probes > 10
            assert [member.ejections for member in harness.backend.members()] == [0, 0]

    run_instantly(scenario())


def test_a_request_timeout_triggers_a_probe():
    async def scenario():
        async with started(*embedders(2)) as harness:
            harness.engines[0].fail_next = BackendTimeoutError("Silent.")
            harness.engines[0].fail_probe = BackendTimeoutError("Silent.")
            with pytest.raises(BackendTimeoutError):
                await harness.call_each_member()
            assert harness.states() == [READY, READY]
            await asyncio.sleep(SHORT_S)
            assert harness.states() == [UNAVAILABLE, READY]

    run_instantly(scenario())


def test_a_failed_request_does_not_eject():
    async def scenario():
        async with started(*embedders(2)) as harness:
            harness.engines[0].fail_next = BackendFailedError("Failed on this one.")
            with pytest.raises(BackendFailedError):
                await harness.call_each_member()
            await asyncio.sleep(LONG_S)
            assert harness.states() == [READY, READY]

    run_instantly(scenario())


def test_a_member_with_an_open_breaker_is_skipped_until_its_trial():
    async def scenario():
        async with started(*embedders(2)) as harness:
            breaker = harness.members[0].breaker
            for _ in range(2):
                breaker.failed(is_silent=True)
            assert [await harness.chosen() for _ in range(3)] == [1] * 3
            await asyncio.sleep(COOL_DOWN_S)
            assert 0 in [await harness.chosen() for _ in range(2)]
            assert {await harness.chosen() for _ in range(2)} == {0, 1}

    run_instantly(scenario())


def test_if_all_breakers_are_open_the_error_has_retry_after():
    async def scenario():
        async with started(*embedders(2)) as harness:
            for member in harness.members:
                for _ in range(2):
                    member.breaker.failed(is_silent=True)
                await asyncio.sleep(1)
            with pytest.raises(BackendUnavailableError, match="failed too often") as caught:
                await harness.backend.call(TEXT, CONTEXT)
            assert caught.value.retry_after_s == COOL_DOWN_S - 2
            assert not isinstance(caught.value, BackendUnreachableError)

    run_instantly(scenario())


def test_it_is_not_ready_without_members_until_the_first_is_back():
    async def scenario():
        async with started(*embedders(2)) as harness:
            for engine in harness.engines:
                disconnect(engine)
            await asyncio.sleep(LONG_S)
            with pytest.raises(BackendUnavailableError):
                await harness.backend.probe()
            with pytest.raises(BackendUnreachableError, match="None"):
                await harness.backend.call(TEXT, CONTEXT)
            reconnect(harness.engines[1])
            await asyncio.sleep(LONG_S)
            await harness.backend.probe()
            assert await harness.chosen() == 1

    run_instantly(scenario())


def test_a_stream_without_members_fails_on_entering():
    async def scenario():
        async with started(FakeBackend(Role.GENERATE)) as harness:
            disconnect(harness.engines[0])
            await asyncio.sleep(LONG_S)
            generation = harness.backend.stream(PROMPT, CONTEXT)
            with pytest.raises(BackendUnreachableError):
                await generation.__aenter__()

    run_instantly(scenario())


def test_generations_are_balanced_by_their_number():
    async def scenario():
        engines = [FakeBackend(Role.GENERATE) for _ in range(2)]
        async with started(*engines) as harness:
            streams = [stream(harness.backend, PROMPT, CONTEXT) for _ in range(4)]
            for events in streams:
                await anext(events)
            assert [engine.running for engine in engines] == [2, 2]
            for events in streams:
                await events.aclose()
            assert [member.outstanding for member in harness.backend.members()] == [0, 0]

    run_instantly(scenario())


def test_any_member_tokenizes():
    async def scenario():
        async with started() as harness:
            found = await harness.backend.call(TokenizeRequest(prompt="ab"), CONTEXT)
            assert found.token_ids == [97, 98]
            assert await harness.backend.call(DetokenizeRequest(token_ids=[97, 98]), CONTEXT) == "ab"

    run_instantly(scenario())


def test_members_that_are_not_up_yet_do_not_delay_the_start():
    async def scenario():
        late = FakeBackend(Role.EMBED)
        late.fail_start = [GONE]
        async with started(late, Slow(Role.EMBED), FakeBackend(Role.EMBED)) as harness:
            assert now() <= GRACE_S
            assert harness.states() == [STARTING, STARTING, READY]
            await asyncio.sleep(SHORT_S)
            assert harness.states() == [READY, STARTING, READY]
            assert {await harness.chosen() for _ in range(4)} == {0, 2}

    run_instantly(scenario())


def test_a_start_without_reachable_members_can_be_retried():
    async def scenario():
        harness = Harness(*embedders(2))
        for engine, word in zip(harness.engines, ["One.", "Two."], strict=True):
            engine.fail_start = [BackendUnreachableError(word)]
        with pytest.raises(BackendUnavailableError) as caught:
            await harness.backend.start()
        for part in ("THE_URL", "host:1", "One.", "host:2", "Two."):
            assert part in caught.value.message
        assert [member.last_error for member in harness.backend.members()] == ["One.", "Two."]
        assert (await harness.backend.start()).name == "fake"
        await harness.backend.stop()

    run_instantly(scenario())


def test_a_start_fails_if_no_member_can_serve():
    async def scenario():
        harness = Harness(*embedders(2))
        for engine in harness.engines:
            engine.fail_start = [BackendFailedError("No vLLM server.")]
        with pytest.raises(BackendFailedError, match=r"host:2.*No vLLM server\."):
            await harness.backend.start()
        await harness.backend.stop()

    run_instantly(scenario())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (FakeBackend(Role.EMBED, name="other"), "serves 'other'"),
        (FakeBackend(Role.EMBED, max_model_len=64), "64 tokens instead of 256"),
        (Other(Role.EMBED), "other vectors"),
    ],
    ids=["name", "context", "vectors"],
)
def test_a_start_names_servers_of_different_models(other, message):
    async def scenario():
        harness = Harness(FakeBackend(Role.EMBED), other)
        with pytest.raises(BackendFailedError) as caught:
            await harness.backend.start()
        for part in ("THE_URL", "number 1 (host:1)", "'fake'", "number 2 (host:2)", message):
            assert part in caught.value.message
        await harness.backend.stop()

    run_instantly(scenario())


def test_a_member_with_a_different_model_is_not_readmitted():
    async def scenario():
        async with started(*embedders(2)) as harness:
            disconnect(harness.engines[0])
            await asyncio.sleep(LONG_S)
            reconnect(harness.engines[0])
            harness.engines[0].name = "other"
            await asyncio.sleep(LONG_S)
            assert harness.states() == [BackendState.FAILED, READY]
            assert "serves 'other'" in str(harness.members[0].health().last_error)
            assert [await harness.chosen() for _ in range(3)] == [1] * 3
            harness.engines[0].name = "fake"
            await asyncio.sleep(LONG_S)
            assert harness.states() == [READY, READY]

    run_instantly(scenario())


def test_if_all_members_were_replaced_the_new_model_is_accepted():
    async def scenario():
        async with started(*embedders(2)) as harness:
            for engine in harness.engines:
                disconnect(engine)
            await asyncio.sleep(LONG_S)
            for engine in harness.engines:
                reconnect(engine)
                engine.max_model_len = 64
            await asyncio.sleep(LONG_S)
            assert harness.states() == [READY, READY]

    run_instantly(scenario())


@pytest.mark.parametrize("reports", [(True, True), (True, False), (False, True)])
def test_tokens_per_input_are_reported_only_if_all_members_do(reports):
    async def scenario():
        harness = Harness(*embedders(2))
        for engine, one in zip(harness.engines, reports, strict=True):
            engine.reports_tokens_per_input = one
        card = await harness.backend.start()
        assert card.reports_tokens_per_input is all(reports)
        assert card.dimensions == 8
        await harness.backend.stop()

    run_instantly(scenario())


def test_cached_vectors_are_dropped_when_a_member_is_back():
    async def scenario():
        async with started(*embedders(2)) as harness:
            cache = CachingBackend(harness.backend, max_bytes=2**20)
            harness.backend.on_readmit = cache.clear
            await cache.start()
            await cache.call(TEXT, CONTEXT)
            disconnect(harness.engines[0])
            await asyncio.sleep(LONG_S)
            assert cache.stats.entries == 1, "vectors of the other member are still valid"
            reconnect(harness.engines[0])
            await asyncio.sleep(LONG_S)
            assert cache.stats.entries == 0

    run_instantly(scenario())


def test_a_member_without_tokens_per_input_fails_no_request():
    async def scenario():
        async with started(*embedders(2)) as harness:
            stack = CachingBackend(BatchingBackend(harness.backend), max_bytes=2**20)
            await stack.start()
            for engine in harness.engines:
                engine.reports_tokens_per_input = False
            result = await stack.call(EmbeddingRequest(inputs=["a", "bb", "ccc"]), CONTEXT)
            assert result.input_tokens == [1, 2, 3]
            alone = [await stack.call(EmbeddingRequest(inputs=[text]), CONTEXT) for text in ("a", "bb", "ccc")]
            assert result.vectors == b"".join(one.vectors for one in alone)

    run_instantly(scenario())


def test_a_stop_ends_members_and_monitors():
    async def scenario():
        async with started(*embedders(2)) as harness:
            await harness.backend.stop()
            assert [engine.stops for engine in harness.engines] == [1, 1]
            assert harness.states() == [BackendState.STOPPED] * 2
            with pytest.raises(BackendUnavailableError):
                await harness.backend.probe()
            assert len(asyncio.all_tasks()) == 1

    run_instantly(scenario())


def test_a_role_is_ready_with_one_server_and_reports_all():
    async def scenario():
        harness = Harness(*embedders(2))
        disconnect(harness.engines[0])
        role = SupervisionBackend(harness.backend, Role.EMBED, model=None)
        await role.start()
        assert role.health.state is READY
        assert [(one.address, one.state) for one in role.health.members or []] == [
            ("host:1", STARTING),
            ("host:2", READY),
        ]
        disconnect(harness.engines[1])
        await asyncio.sleep(LONG_S)
        assert role.health.state is UNAVAILABLE
        reconnect(harness.engines[0])
        await asyncio.sleep(LONG_S)
        assert role.health.state is READY
        await role.stop()

    run_instantly(scenario())
