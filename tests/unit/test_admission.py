"""Admission: limits of running and waiting requests."""

import asyncio

import pytest

from domain.conversation import Conversation, TextPart, UserMessage
from domain.errors import OverloadedError
from domain.load import Bounds
from domain.policies.admission import AdmissionBackend
from domain.port import RequestContext
from domain.requests import DetokenizeRequest, EmbeddingRequest, GenerationRequest, TokenizeRequest
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.calls import events_of, stream
from tests.fakes import FakeBackend
from tests.unit.waiting import run_instantly

CONTEXT = RequestContext(request_id="test")
WORK_S = 10.0


class Harness:
    def __init__(self, role: Role = Role.EMBED, **bounds: int) -> None:
        self.engine = FakeBackend(role, delay_s=WORK_S)
        self.engine.started = True
        wide = {"max_running": 2, "max_waiting": 3, "max_running_tokens": 10**6, "max_waiting_tokens": 10**6}
        self.admission = AdmissionBackend(self.engine, Bounds(**(wide | bounds)))

    def submit(self, tokens: int = 1) -> asyncio.Task:
        request = EmbeddingRequest(inputs=[[5] * tokens])
        return asyncio.create_task(self.admission.call(request, CONTEXT))

    @property
    def state(self) -> tuple[int, int]:
        load = self.admission.load
        return load.running, load.waiting


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_requests_beyond_the_bounds_are_rejected_immediately():
    async def scenario():
        harness = Harness()
        admitted = [harness.submit() for _ in range(5)]
        await settle()
        assert harness.state == (2, 3)
        assert harness.engine.running == 2
        with pytest.raises(OverloadedError) as caught:
            await harness.submit()
        assert caught.value.status == 429
        assert asyncio.get_running_loop().time() == 0, "the request is rejected without waiting"
        await asyncio.gather(*admitted)
        assert asyncio.get_running_loop().time() == pytest.approx(3 * WORK_S)
        assert harness.state == (0, 0)

    run_instantly(scenario())


def test_requests_are_admitted_in_order_of_arrival():
    async def scenario():
        harness = Harness(max_running=1)
        order = []
        tasks = [harness.submit(tokens) for tokens in (1, 2, 3, 4)]
        for number, task in enumerate(tasks):
            task.add_done_callback(lambda _task, number=number: order.append(number))
        await asyncio.gather(*tasks)
        await settle()
        assert order == [0, 1, 2, 3]
        assert [len(request.inputs[0]) for request in harness.engine.seen] == [1, 2, 3, 4]

    run_instantly(scenario())


def test_tokens_are_bounded_as_well_as_requests():
    async def scenario():
        harness = Harness(max_running=10, max_running_tokens=100, max_waiting_tokens=100)
        first, second, third = harness.submit(60), harness.submit(60), harness.submit(40)
        await settle()
        assert harness.state == (1, 2), "the third fits, but the queue is first in, first out"
        with pytest.raises(OverloadedError):
            await harness.submit(1)
        await asyncio.gather(first, second, third)
        assert harness.admission.load.running_tokens == harness.admission.load.waiting_tokens == 0

    run_instantly(scenario())


def test_a_request_larger_than_the_bounds_is_served_alone():
    async def scenario():
        harness = Harness(max_running_tokens=10, max_waiting_tokens=10)
        await asyncio.gather(harness.submit(50), harness.submit(50))
        assert harness.state == (0, 0)

    run_instantly(scenario())


def test_without_a_queue_excess_requests_are_rejected():
    async def scenario():
        harness = Harness(max_waiting=0)
        running = [harness.submit(), harness.submit()]
        await settle()
        with pytest.raises(OverloadedError):
            await harness.submit()
        await asyncio.gather(*running)

    run_instantly(scenario())


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_a_cancelled_request_frees_its_slot(cancelled):
    async def scenario():
        harness = Harness(max_running=1, max_waiting=2)
        tasks = [harness.submit() for _ in range(3)]
        await settle()
        tasks[cancelled].cancel()
        await settle()
        assert harness.state == (1, 1)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results].count(True) == 1
        assert (harness.state, harness.admission.load.running_tokens) == ((0, 0), 0)

    run_instantly(scenario())


def test_a_slot_given_to_a_request_that_is_cancelled_at_once_is_not_lost():
    async def scenario():
        harness = Harness(max_running=1)
        first, second = harness.submit(), harness.submit()
        await settle()
        first.add_done_callback(lambda _task: second.cancel())
        await asyncio.gather(first, second, return_exceptions=True)
        assert harness.state == (0, 0)
        await harness.submit()

    run_instantly(scenario())


def test_all_requests_can_be_cancelled_at_once():
    async def scenario():
        harness = Harness(max_running=2, max_waiting=10)
        tasks = [harness.submit(7) for _ in range(8)]
        await settle()
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError}
        load = harness.admission.load
        assert (load.running, load.waiting, load.running_tokens, load.waiting_tokens) == (0, 0, 0, 0)
        await harness.submit()

    run_instantly(scenario())


def test_a_failed_request_frees_its_slot():
    async def scenario():
        harness = Harness(max_running=1)
        harness.engine.fail_next = OverloadedError("The engine's own.")
        with pytest.raises(OverloadedError):
            await harness.submit()
        assert harness.state == (0, 0)

    run_instantly(scenario())


def test_retry_after_grows_with_the_queue(monkeypatch):
    def retry_after(waiting: int) -> int:
        async def scenario() -> int:
            loop = asyncio.get_running_loop()
            monkeypatch.setattr("domain.policies.admission.time.monotonic", loop.time)
            harness = Harness(max_running=1, max_waiting=waiting)
            await harness.submit()
            tasks = [harness.submit() for _ in range(waiting + 1)]
            await settle()
            with pytest.raises(OverloadedError) as caught:
                await harness.submit()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return caught.value.retry_after_s

        return run_instantly(scenario())

    assert [retry_after(waiting) for waiting in (0, 1, 2)] == [10, 20, 30]
    assert retry_after(50) == 60, "the maximum is a minute"


def test_a_stream_holds_its_slot_until_it_is_closed():
    async def scenario():
        harness = Harness(Role.GENERATE, max_running=1, max_waiting=0)
        harness.engine.delay_s = 0
        request = GenerationRequest(prompt="text", sampling=SamplingParameters(max_tokens=9))
        events = stream(harness.admission, request, CONTEXT)
        await anext(events)
        assert harness.state == (1, 0)
        with pytest.raises(OverloadedError):
            await anext(stream(harness.admission, request, CONTEXT))
        await events.aclose()
        assert harness.state == (0, 0)
        assert await events_of(harness.admission, request, CONTEXT)

    run_instantly(scenario())


def test_a_generation_holds_its_slot_until_it_is_complete():
    async def scenario():
        harness = Harness(Role.GENERATE, max_running=1, max_waiting=0)
        request = GenerationRequest(prompt="text", sampling=SamplingParameters(max_tokens=9))
        running = asyncio.create_task(harness.admission.call(request, CONTEXT))
        await settle()
        assert harness.admission.load.running_tokens == request.estimated_tokens
        with pytest.raises(OverloadedError):
            await harness.admission.call(request, CONTEXT)
        assert (await running).usage.completion_tokens == 9
        assert harness.state == (0, 0)

    run_instantly(scenario())


def test_requests_without_inference_need_no_slot():
    async def scenario():
        harness = Harness(max_running=1, max_waiting=0)
        running = harness.submit()
        await settle()
        assert (await harness.admission.call(TokenizeRequest(prompt="a"), CONTEXT)).token_ids == [97]
        assert await harness.admission.call(DetokenizeRequest(token_ids=[97]), CONTEXT) == "a"
        assert harness.state == (1, 0)
        await running

    run_instantly(scenario())


def test_estimated_tokens_include_the_prompt_and_all_answers():
    sampling = SamplingParameters(max_tokens=10, n=3)
    conversation = Conversation(
        messages=[UserMessage(content="x" * 40), UserMessage(content=[TextPart(text="y" * 40)])]
    )
    assert GenerationRequest(prompt=[1] * 20, sampling=sampling).estimated_tokens == 50
    assert GenerationRequest(prompt="x" * 80, sampling=sampling).estimated_tokens == 51
    assert GenerationRequest(prompt=conversation, sampling=sampling).estimated_tokens == 50
    unbounded = SamplingParameters(max_tokens=None)
    assert GenerationRequest(prompt=[1], sampling=unbounded).estimated_tokens == 257


def test_greedy_choices_are_estimated_as_one_because_one_is_computed():
    request = GenerationRequest(prompt=[1], sampling=SamplingParameters(max_tokens=10, n=3, temperature=0.0))
    assert (request.width, request.estimated_tokens) == (1, 11)
