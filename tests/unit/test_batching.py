import asyncio

import pytest

from domain.errors import BackendUnavailableError, ContextLengthError, DeadlineError, InvalidRequestError
from domain.policies.batching import BatchingBackend
from domain.policies.deadline import DeadlineBackend
from domain.port import InferenceBackend, RequestContext
from domain.requests import EmbeddingRequest
from domain.results import EmbeddingResult
from domain.roles import Role
from domain.service_class import ServiceClass
from tests.fakes import FakeBackend
from tests.unit.waiting import run_instantly, until

CONTEXT = RequestContext(request_id="test")


class Gate(FakeBackend):
    """Blocks requests until `let_through` releases them."""

    def __init__(self) -> None:
        super().__init__(Role.EMBED)
        self.calls: list[list] = []
        self.cancelled: list[list] = []
        self._passes = asyncio.Semaphore(0)

    def let_through(self, count: int = 100) -> None:
        for _ in range(count):
            self._passes.release()

    async def call(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        self.calls.append(request.inputs)
        try:
            await self._passes.acquire()
        except asyncio.CancelledError:
            self.cancelled.append(request.inputs)
            raise
        return await super().call(request, context)


async def batching(fake: FakeBackend, **bounds) -> BatchingBackend:
    backend = BatchingBackend(fake, **bounds)
    await backend.start()
    return backend


def send(backend: InferenceBackend, *inputs, **fields) -> asyncio.Task:
    request = EmbeddingRequest(inputs=list(inputs), **fields)
    return asyncio.create_task(backend.call(request, CONTEXT))


async def start_first(backend: BatchingBackend, gate: Gate) -> asyncio.Task:
    first = send(backend, "first")
    await until(lambda: gate.calls == [["first"]])
    return first


async def alone(*inputs, **fields) -> EmbeddingResult:
    """The engine's answer to a single request."""
    fake = FakeBackend(Role.EMBED)
    await fake.start()
    return await fake.call(EmbeddingRequest(inputs=list(inputs), **fields), CONTEXT)


async def test_a_lone_request_is_forwarded_unchanged():
    gate = Gate()
    backend = await batching(gate)
    task = send(backend, "a", "b")
    await until(lambda: gate.calls == [["a", "b"]])
    gate.let_through()
    assert await task == await alone("a", "b")
    assert backend.batched == 0


async def test_waiting_requests_are_batched_and_each_gets_its_own_result():
    gate = Gate()
    backend = await batching(gate)
    first = await start_first(backend, gate)
    tasks = [send(backend, "aa", "b"), send(backend, "ccc"), send(backend, "d", "ee", "f")]
    await asyncio.sleep(0)
    assert gate.calls == [["first"]], "no batch starts during a call"
    gate.let_through()
    await first
    results = await asyncio.gather(*tasks)
    assert results == [await alone("aa", "b"), await alone("ccc"), await alone("d", "ee", "f")]
    assert [result.prompt_tokens for result in results] == [3, 3, 4]
    assert gate.calls == [["first"], ["aa", "b", "ccc", "d", "ee", "f"]]
    assert backend.batched == 3


async def test_only_compatible_requests_are_batched():
    gate = Gate()
    backend = await batching(gate)
    first = await start_first(backend, gate)
    tasks = [send(backend, "a"), send(backend, "b", dimensions=4), send(backend, [99]), send(backend, "c")]
    await asyncio.sleep(0)
    gate.let_through()
    await first
    results = await asyncio.gather(*tasks)
    assert results[1] == await alone("b", dimensions=4)
    assert results[3] == await alone("c")
    assert gate.calls[1:] == [["a", "c"], ["b"], [[99]]]


@pytest.mark.parametrize("bounds", [{"max_inputs": 3}, {"max_tokens": 6}])
async def test_the_batch_size_is_bounded(bounds):
    gate = Gate()
    backend = await batching(gate, **bounds)
    first = await start_first(backend, gate)
    tasks = [send(backend, "aa"), send(backend, "bb", "cc"), send(backend, "dd")]
    await asyncio.sleep(0)
    gate.let_through()
    await first
    await asyncio.gather(*tasks)
    assert gate.calls[1:] == [["aa", "bb", "cc"], ["dd"]]


async def test_a_request_as_large_as_a_batch_does_not_wait():
    gate = Gate()
    backend = await batching(gate, max_inputs=2)
    first = await start_first(backend, gate)
    large = send(backend, "a", "b")
    await until(lambda: gate.calls == [["first"], ["a", "b"]])
    gate.let_through()
    await asyncio.gather(first, large)


async def test_an_invalid_input_fails_only_its_own_request():
    gate = Gate()
    backend = await batching(gate)
    first = await start_first(backend, gate)
    good, bad, other = send(backend, "good"), send(backend, "x" * 999), send(backend, "other")
    await asyncio.sleep(0)
    gate.let_through()
    await first
    assert await good == await alone("good")
    assert await other == await alone("other")
    with pytest.raises(ContextLengthError):
        await bad


async def test_requests_are_not_retried_alone_if_the_engine_is_unavailable():
    gate = Gate()
    backend = await batching(gate)
    first = await start_first(backend, gate)
    tasks = [send(backend, text) for text in "abc"]
    await asyncio.sleep(0)
    gate.let_through(1)
    await first
    gate.fail_next = BackendUnavailableError("gone")
    gate.let_through()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, BackendUnavailableError) for outcome in outcomes)
    assert gate.calls[1:] == [["a", "b", "c"]]


async def test_a_cancelled_request_does_not_affect_its_batch():
    gate = Gate()
    backend = await batching(gate)
    first = await start_first(backend, gate)
    early, late, kept = send(backend, "early"), send(backend, "late"), send(backend, "kept")
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.gather(early, return_exceptions=True)
    gate.let_through(1)
    await first
    await until(lambda: gate.calls[-1] == ["late", "kept"])
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert not gate.cancelled
    gate.let_through()
    assert await kept == await alone("kept")


async def test_a_batch_is_cancelled_with_its_last_request():
    gate = Gate()
    backend = await batching(gate)
    first = await start_first(backend, gate)
    tasks = [send(backend, "a"), send(backend, "b")]
    await asyncio.sleep(0)
    gate.let_through(1)
    await first
    await until(lambda: gate.calls[-1] == ["a", "b"])
    next_one = send(backend, "next")
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: gate.cancelled == [["a", "b"]])
    await until(lambda: gate.calls[-1] == ["next"])
    gate.let_through()
    assert await next_one == await alone("next")


async def test_cancelling_a_lone_request_starts_the_next_batch():
    gate = Gate()
    backend = await batching(gate)
    first = await start_first(backend, gate)
    waiting = send(backend, "waiting")
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert gate.cancelled == [["first"]]
    gate.let_through()
    assert await waiting == await alone("waiting")


async def test_without_tokens_per_input_nothing_is_batched():
    gate = Gate()
    gate.reports_tokens_per_input = False
    backend = await batching(gate)
    tasks = [send(backend, text) for text in "abc"]
    await until(lambda: gate.calls == [["a"], ["b"], ["c"]])
    gate.let_through()
    await asyncio.gather(*tasks)


async def test_a_batch_without_tokens_per_input_is_retried_one_by_one():
    gate = Gate()
    backend = await batching(gate)
    first = await start_first(backend, gate)
    tasks = [send(backend, "aa"), send(backend, "b")]
    await asyncio.sleep(0)
    gate.reports_tokens_per_input = False
    gate.let_through()
    await first
    results = await asyncio.gather(*tasks)
    assert [result.prompt_tokens for result in results] == [2, 1]
    assert gate.calls[1:] == [["aa", "b"], ["aa"], ["b"]]


async def test_a_stop_fails_running_batches():
    gate = Gate()
    backend = await batching(gate)
    first = await start_first(backend, gate)
    task = send(backend, "a")
    await asyncio.sleep(0)
    gate.let_through(1)
    await first
    await until(lambda: gate.calls[-1] == ["a"])
    await backend.stop()
    with pytest.raises(BackendUnavailableError, match="stopping"):
        await task


async def test_a_rejected_lone_request_does_not_affect_the_next():
    backend = await batching(FakeBackend(Role.EMBED))
    with pytest.raises(InvalidRequestError):
        await send(backend, "a", dimensions=3)
    assert await send(backend, "b") == await alone("b")


def test_a_batch_that_is_cancelled_before_its_first_step_blocks_no_later_request():
    async def scenario():
        fake = FakeBackend(Role.EMBED)
        backend = DeadlineBackend(BatchingBackend(fake), timeout_s=1)
        await backend.start()
        fake.delay_s = 1000.0
        # The call and all that wait for it reach their deadline in the same iteration of the loop.
        silent = await asyncio.gather(*(send(backend, str(number)) for number in range(3)), return_exceptions=True)
        assert {type(error) for error in silent} == {DeadlineError}
        fake.delay_s = 0.0
        for _ in range(2):
            assert (await send(backend, "later")).prompt_tokens == 5

    run_instantly(scenario())


async def test_classes_of_service_share_no_batch_and_wait_for_no_other():
    gate = Gate()
    backend = await batching(gate)

    def send_as(service_class: ServiceClass, text: str) -> asyncio.Task:
        context = RequestContext(request_id="test", service_class=service_class)
        return asyncio.create_task(backend.call(EmbeddingRequest(inputs=[text]), context))

    line = send_as(ServiceClass.BATCH, "line 1")
    await until(lambda: gate.calls == [["line 1"]])
    tasks = [line, *(send_as(ServiceClass.BATCH, f"line {number}") for number in (2, 3))]
    tasks.append(send_as(ServiceClass.INTERACTIVE, "query 1"))
    await until(lambda: gate.calls == [["line 1"], ["query 1"]])
    tasks += [send_as(ServiceClass.INTERACTIVE, f"query {number}") for number in (2, 3)]
    gate.let_through()
    await asyncio.gather(*tasks)
    assert sorted(gate.calls[2:]) == [["line 2", "line 3"], ["query 2", "query 3"]]
