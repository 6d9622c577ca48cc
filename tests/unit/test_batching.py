import asyncio

import pytest

from domain.errors import BackendUnavailableError, ContextLengthError, InvalidRequestError
from domain.policies.batching import BatchingBackend
from domain.port import RequestContext
from domain.requests import EmbeddingRequest
from domain.results import EmbeddingResult
from domain.roles import Role
from tests.fakes import FakeBackend
from tests.unit.waiting import until

CONTEXT = RequestContext(request_id="test")


class Gate(FakeBackend):
    """Holds requests back until it lets them through, one by one or all."""

    def __init__(self) -> None:
        super().__init__(Role.EMBED)
        self.flights: list[list] = []
        self.cancelled: list[list] = []
        self._passes = asyncio.Semaphore(0)

    def let_through(self, count: int = 100) -> None:
        for _ in range(count):
            self._passes.release()

    async def call(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        self.flights.append(request.inputs)
        try:
            await self._passes.acquire()
        except asyncio.CancelledError:
            self.cancelled.append(request.inputs)
            raise
        return await super().call(request, context)


async def joining(fake: FakeBackend, **bounds) -> BatchingBackend:
    backend = BatchingBackend(fake, **bounds)
    await backend.start()
    return backend


def send(backend: BatchingBackend, *inputs, **fields) -> asyncio.Task:
    request = EmbeddingRequest(inputs=list(inputs), **fields)
    return asyncio.create_task(backend.call(request, CONTEXT))


async def with_one_under_way(backend: BatchingBackend, gate: Gate) -> asyncio.Task:
    first = send(backend, "first")
    await until(lambda: gate.flights == [["first"]])
    return first


async def alone(*inputs, **fields) -> EmbeddingResult:
    """What the engine answers to a request on its own."""
    fake = FakeBackend(Role.EMBED)
    await fake.start()
    return await fake.call(EmbeddingRequest(inputs=list(inputs), **fields), CONTEXT)


async def test_a_lone_request_goes_at_once_and_as_it_is():
    gate = Gate()
    backend = await joining(gate)
    task = send(backend, "a", "b")
    await until(lambda: gate.flights == [["a", "b"]])
    gate.let_through()
    assert await task == await alone("a", "b")
    assert backend.batched == 0


async def test_requests_that_wait_travel_together_and_each_gets_its_own():
    gate = Gate()
    backend = await joining(gate)
    first = await with_one_under_way(backend, gate)
    tasks = [send(backend, "aa", "b"), send(backend, "ccc"), send(backend, "d", "ee", "f")]
    await asyncio.sleep(0)
    assert gate.flights == [["first"]], "nobody leaves while one is under way"
    gate.let_through()
    await first
    results = await asyncio.gather(*tasks)
    assert results == [await alone("aa", "b"), await alone("ccc"), await alone("d", "ee", "f")]
    assert [result.prompt_tokens for result in results] == [3, 3, 4]
    assert gate.flights == [["first"], ["aa", "b", "ccc", "d", "ee", "f"]]
    assert backend.batched == 3


async def test_only_requests_of_one_kind_travel_together():
    gate = Gate()
    backend = await joining(gate)
    first = await with_one_under_way(backend, gate)
    tasks = [send(backend, "a"), send(backend, "b", dimensions=4), send(backend, [99]), send(backend, "c")]
    await asyncio.sleep(0)
    gate.let_through()
    await first
    results = await asyncio.gather(*tasks)
    assert results[1] == await alone("b", dimensions=4)
    assert results[3] == await alone("c")
    assert gate.flights[1:] == [["a", "c"], ["b"], [[99]]]


@pytest.mark.parametrize("bounds", [{"max_inputs": 3}, {"max_tokens": 6}])
async def test_what_travels_together_is_bounded(bounds):
    gate = Gate()
    backend = await joining(gate, **bounds)
    first = await with_one_under_way(backend, gate)
    tasks = [send(backend, "aa"), send(backend, "bb", "cc"), send(backend, "dd")]
    await asyncio.sleep(0)
    gate.let_through()
    await first
    await asyncio.gather(*tasks)
    assert gate.flights[1:] == [["aa", "bb", "cc"], ["dd"]]


async def test_a_request_as_large_as_a_flight_does_not_wait():
    gate = Gate()
    backend = await joining(gate, max_inputs=2)
    first = await with_one_under_way(backend, gate)
    large = send(backend, "a", "b")
    await until(lambda: gate.flights == [["first"], ["a", "b"]])
    gate.let_through()
    await asyncio.gather(first, large)


async def test_one_bad_input_fails_its_own_request_only():
    gate = Gate()
    backend = await joining(gate)
    first = await with_one_under_way(backend, gate)
    good, bad, other = send(backend, "good"), send(backend, "x" * 999), send(backend, "other")
    await asyncio.sleep(0)
    gate.let_through()
    await first
    assert await good == await alone("good")
    assert await other == await alone("other")
    with pytest.raises(ContextLengthError):
        await bad


async def test_an_engine_that_is_gone_is_not_asked_once_more_for_each():
    gate = Gate()
    backend = await joining(gate)
    first = await with_one_under_way(backend, gate)
    tasks = [send(backend, text) for text in "abc"]
    await asyncio.sleep(0)
    gate.let_through(1)
    await first
    gate.fail_next = BackendUnavailableError("gone")
    gate.let_through()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, BackendUnavailableError) for outcome in outcomes)
    assert gate.flights[1:] == [["a", "b", "c"]]


async def test_a_cancelled_request_does_not_disturb_its_neighbours():
    gate = Gate()
    backend = await joining(gate)
    first = await with_one_under_way(backend, gate)
    early, late, kept = send(backend, "early"), send(backend, "late"), send(backend, "kept")
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.gather(early, return_exceptions=True)
    gate.let_through(1)
    await first
    await until(lambda: gate.flights[-1] == ["late", "kept"])
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert not gate.cancelled
    gate.let_through()
    assert await kept == await alone("kept")


async def test_a_flight_that_nobody_waits_for_is_cancelled_and_the_next_one_starts():
    gate = Gate()
    backend = await joining(gate)
    first = await with_one_under_way(backend, gate)
    tasks = [send(backend, "a"), send(backend, "b")]
    await asyncio.sleep(0)
    gate.let_through(1)
    await first
    await until(lambda: gate.flights[-1] == ["a", "b"])
    next_one = send(backend, "next")
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: gate.cancelled == [["a", "b"]])
    await until(lambda: gate.flights[-1] == ["next"])
    gate.let_through()
    assert await next_one == await alone("next")


async def test_a_lone_request_that_is_cancelled_lets_the_next_one_go():
    gate = Gate()
    backend = await joining(gate)
    first = await with_one_under_way(backend, gate)
    waiting = send(backend, "waiting")
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert gate.cancelled == [["first"]]
    gate.let_through()
    assert await waiting == await alone("waiting")


async def test_without_counts_for_each_input_nothing_is_joined():
    gate = Gate()
    gate.reports_tokens_per_input = False
    backend = await joining(gate)
    tasks = [send(backend, text) for text in "abc"]
    await until(lambda: gate.flights == [["a"], ["b"], ["c"]])
    gate.let_through()
    await asyncio.gather(*tasks)


async def test_counts_that_are_missing_after_all_cost_nobody_his_answer():
    gate = Gate()
    backend = await joining(gate)
    first = await with_one_under_way(backend, gate)
    tasks = [send(backend, "aa"), send(backend, "b")]
    await asyncio.sleep(0)
    gate.reports_tokens_per_input = False
    gate.let_through()
    await first
    results = await asyncio.gather(*tasks)
    assert [result.prompt_tokens for result in results] == [2, 1]
    assert gate.flights[1:] == [["aa", "b"], ["aa"], ["b"]]


async def test_a_stop_ends_those_who_are_under_way():
    gate = Gate()
    backend = await joining(gate)
    first = await with_one_under_way(backend, gate)
    task = send(backend, "a")
    await asyncio.sleep(0)
    gate.let_through(1)
    await first
    await until(lambda: gate.flights[-1] == ["a"])
    await backend.stop()
    with pytest.raises(BackendUnavailableError, match="stopping"):
        await task


async def test_a_refusal_of_a_lone_request_is_its_own():
    backend = await joining(FakeBackend(Role.EMBED))
    with pytest.raises(InvalidRequestError):
        await send(backend, "a", dimensions=3)
    assert await send(backend, "b") == await alone("b")
