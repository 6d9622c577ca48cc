"""Bounds on what runs and what waits."""

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


class Stage:
    def __init__(self, role: Role = Role.EMBED, **bounds: int) -> None:
        self.engine = FakeBackend(role, delay_s=WORK_S)
        self.engine.started = True
        wide = {"max_running": 2, "max_waiting": 3, "max_running_tokens": 10**6, "max_waiting_tokens": 10**6}
        self.admission = AdmissionBackend(self.engine, Bounds(**(wide | bounds)))

    def ask(self, tokens: int = 1) -> asyncio.Task:
        request = EmbeddingRequest(inputs=[[5] * tokens])
        return asyncio.create_task(self.admission.call(request, CONTEXT))

    @property
    def state(self) -> tuple[int, int]:
        load = self.admission.load
        return load.running, load.waiting


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_so_many_run_so_many_wait_and_the_rest_is_refused_at_once():
    async def scenario():
        stage = Stage()
        admitted = [stage.ask() for _ in range(5)]
        await settle()
        assert stage.state == (2, 3)
        assert stage.engine.running == 2
        with pytest.raises(OverloadedError) as caught:
            await stage.ask()
        assert caught.value.status == 429
        assert asyncio.get_running_loop().time() == 0, "nobody waits for a no"
        await asyncio.gather(*admitted)
        assert asyncio.get_running_loop().time() == pytest.approx(3 * WORK_S)
        assert stage.state == (0, 0)

    run_instantly(scenario())


def test_who_came_first_is_let_in_first():
    async def scenario():
        stage = Stage(max_running=1)
        order = []
        tasks = [stage.ask(tokens) for tokens in (1, 2, 3, 4)]
        for number, task in enumerate(tasks):
            task.add_done_callback(lambda _task, number=number: order.append(number))
        await asyncio.gather(*tasks)
        await settle()
        assert order == [0, 1, 2, 3]
        assert [len(request.inputs[0]) for request in stage.engine.seen] == [1, 2, 3, 4]

    run_instantly(scenario())


def test_tokens_count_as_well_as_requests():
    async def scenario():
        stage = Stage(max_running=10, max_running_tokens=100, max_waiting_tokens=100)
        first, second, third = stage.ask(60), stage.ask(60), stage.ask(40)
        await settle()
        assert stage.state == (1, 2), "the third fits, but it is not its turn"
        with pytest.raises(OverloadedError):
            await stage.ask(1)
        await asyncio.gather(first, second, third)
        assert stage.admission.load.running_tokens == stage.admission.load.waiting_tokens == 0

    run_instantly(scenario())


def test_a_request_larger_than_the_bounds_is_served_when_it_is_alone():
    async def scenario():
        stage = Stage(max_running_tokens=10, max_waiting_tokens=10)
        await asyncio.gather(stage.ask(50), stage.ask(50))
        assert stage.state == (0, 0)

    run_instantly(scenario())


def test_without_a_waiting_room_nobody_waits():
    async def scenario():
        stage = Stage(max_waiting=0)
        running = [stage.ask(), stage.ask()]
        await settle()
        with pytest.raises(OverloadedError):
            await stage.ask()
        await asyncio.gather(*running)

    run_instantly(scenario())


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_who_leaves_makes_room(leaver):
    async def scenario():
        stage = Stage(max_running=1, max_waiting=2)
        tasks = [stage.ask() for _ in range(3)]
        await settle()
        tasks[leaver].cancel()
        await settle()
        assert stage.state == (1, 1)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results].count(True) == 1
        assert (stage.state, stage.admission.load.running_tokens) == ((0, 0), 0)

    run_instantly(scenario())


def test_a_place_given_to_who_leaves_at_that_moment_is_not_lost():
    async def scenario():
        stage = Stage(max_running=1)
        first, second = stage.ask(), stage.ask()
        await settle()
        first.add_done_callback(lambda _task: second.cancel())
        await asyncio.gather(first, second, return_exceptions=True)
        assert stage.state == (0, 0)
        await stage.ask()

    run_instantly(scenario())


def test_all_may_leave_at_the_same_moment():
    async def scenario():
        stage = Stage(max_running=2, max_waiting=10)
        crowd = [stage.ask(7) for _ in range(8)]
        await settle()
        for task in crowd:
            task.cancel()
        ends = await asyncio.gather(*crowd, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError}
        load = stage.admission.load
        assert (load.running, load.waiting, load.running_tokens, load.waiting_tokens) == (0, 0, 0, 0)
        await stage.ask()

    run_instantly(scenario())


def test_a_failed_request_gives_its_place_back():
    async def scenario():
        stage = Stage(max_running=1)
        stage.engine.fail_next = OverloadedError("The engine's own.")
        with pytest.raises(OverloadedError):
            await stage.ask()
        assert stage.state == (0, 0)

    run_instantly(scenario())


def test_retry_after_grows_with_the_queue(monkeypatch):
    def refusal(waiting: int) -> int:
        async def scenario() -> int:
            loop = asyncio.get_running_loop()
            monkeypatch.setattr("domain.policies.admission.time.monotonic", loop.time)
            stage = Stage(max_running=1, max_waiting=waiting)
            await stage.ask()
            tasks = [stage.ask() for _ in range(waiting + 1)]
            await settle()
            with pytest.raises(OverloadedError) as caught:
                await stage.ask()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return caught.value.retry_after_s

        return run_instantly(scenario())

    assert [refusal(waiting) for waiting in (0, 1, 2)] == [10, 20, 30]
    assert refusal(50) == 60, "nobody is sent away for longer than a minute"


def test_a_stream_has_its_place_until_it_is_closed():
    async def scenario():
        stage = Stage(Role.GENERATE, max_running=1, max_waiting=0)
        stage.engine.delay_s = 0
        request = GenerationRequest(prompt="text", sampling=SamplingParameters(max_tokens=9))
        events = stream(stage.admission, request, CONTEXT)
        await anext(events)
        assert stage.state == (1, 0)
        with pytest.raises(OverloadedError):
            await anext(stream(stage.admission, request, CONTEXT))
        await events.aclose()
        assert stage.state == (0, 0)
        assert await events_of(stage.admission, request, CONTEXT)

    run_instantly(scenario())


def test_a_whole_generation_has_its_place_until_it_is_there():
    async def scenario():
        stage = Stage(Role.GENERATE, max_running=1, max_waiting=0)
        request = GenerationRequest(prompt="text", sampling=SamplingParameters(max_tokens=9))
        running = asyncio.create_task(stage.admission.call(request, CONTEXT))
        await settle()
        assert stage.admission.load.running_tokens == request.estimated_tokens
        with pytest.raises(OverloadedError):
            await stage.admission.call(request, CONTEXT)
        assert (await running).usage.completion_tokens == 9
        assert stage.state == (0, 0)

    run_instantly(scenario())


def test_what_needs_no_inference_takes_no_place():
    async def scenario():
        stage = Stage(max_running=1, max_waiting=0)
        running = stage.ask()
        await settle()
        assert (await stage.admission.call(TokenizeRequest(prompt="a"), CONTEXT)).token_ids == [97]
        assert await stage.admission.call(DetokenizeRequest(token_ids=[97]), CONTEXT) == "a"
        assert stage.state == (1, 0)
        await running

    run_instantly(scenario())


def test_tokens_of_a_generation_are_its_prompt_and_all_its_answers():
    sampling = SamplingParameters(max_tokens=10, n=3)
    said = Conversation(messages=[UserMessage(content="x" * 40), UserMessage(content=[TextPart(text="y" * 40)])])
    assert GenerationRequest(prompt=[1] * 20, sampling=sampling).estimated_tokens == 50
    assert GenerationRequest(prompt="x" * 80, sampling=sampling).estimated_tokens == 51
    assert GenerationRequest(prompt=said, sampling=sampling).estimated_tokens == 50
    unbounded = SamplingParameters(max_tokens=None)
    assert GenerationRequest(prompt=[1], sampling=unbounded).estimated_tokens == 257
