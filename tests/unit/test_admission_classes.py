"""Admission by class of service: who goes first, who gives way, and that all counts stay exact."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from domain.errors import OverloadedError
from domain.load import Bounds
from domain.policies.admission import AdmissionBackend
from domain.policies.allowance import POLL_S, QUIET_S, RAMP_S, Allowance, InteractiveActivity
from domain.port import ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import EmbeddingRequest
from domain.results import EmbeddingResult
from domain.roles import Role
from domain.service_class import ServiceClass
from tests.unit.waiting import InstantLoop, now, run_instantly

INTERACTIVE, FLEX, BATCH = ServiceClass
UNUSED = EmbeddingResult(vectors=b"", dimensions=1, prompt_tokens=0)


class Engine:
    """Computes until it is told to finish a request; a request is known by its number."""

    def __init__(self) -> None:
        self.running: dict[int, asyncio.Future[None]] = {}
        self.began: list[int] = []

    async def start(self, _on_step: StepListener = ignore_step) -> ModelCard:
        return ModelCard(name="engine", role=Role.EMBED, created=1, max_sequences=4)

    async def call(self, request: EmbeddingRequest, _context: RequestContext) -> EmbeddingResult:
        (number, *_) = request.inputs[0]
        self.began.append(number)
        self.running[number] = asyncio.get_running_loop().create_future()
        try:
            await self.running[number]
        finally:
            del self.running[number]
        return UNUSED


class Fixed:
    """The same allowance for both classes until the test changes it."""

    def __init__(self, running: int, tokens: int = 10**6) -> None:
        self.own = Allowance(running, tokens)
        self.most = Allowance(100, 10**6)

    def engine_started(self, _max_sequences: int | None) -> None:
        pass

    def ceiling(self) -> Allowance:
        return self.most

    def allowance(self, _service_class: ServiceClass, _now: float) -> Allowance:
        return self.own

    def ended(self, _service_class: ServiceClass, _began: float, _now: float) -> None:
        pass


class Harness:
    def __init__(self, policy: Fixed | None = None, activity: InteractiveActivity | None = None, **bounds: int):
        self.engine = Engine()
        wide = {"max_running": 4, "max_waiting": 2, "max_running_tokens": 10**6, "max_waiting_tokens": 10**6}
        self.admission = AdmissionBackend(self.engine, Bounds(**(wide | bounds)), policy=policy, activity=activity)
        self.sent = 0

    def send(self, service_class: ServiceClass, tokens: int = 1) -> asyncio.Task:
        self.sent += 1
        request = EmbeddingRequest(inputs=[[self.sent] + [0] * (tokens - 1)])
        context = RequestContext(request_id="test", service_class=service_class)
        return asyncio.create_task(self.admission.call(request, context), name=str(self.sent))

    async def finish(self, *numbers: int) -> None:
        for number in numbers:
            self.engine.running[number].set_result(None)
        await settle()

    def counts(self, service_class: ServiceClass) -> tuple[int, int]:
        load = self.admission.load.classes[service_class.name.lower()]
        return load.running, load.waiting


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run it with a simulated clock. While something waits a timer keeps the loop going, so time has to end."""
    run_instantly(asyncio.wait_for(scenario, 1000))


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch) -> None:
    monkeypatch.setattr("domain.policies.admission.time.monotonic", lambda: now())


def test_the_more_urgent_class_goes_first_and_each_is_first_in_first_out(clock):
    async def scenario():
        harness = Harness(Fixed(9), max_running=1, max_waiting=9)
        classes = [BATCH, BATCH, FLEX, INTERACTIVE, FLEX, INTERACTIVE, BATCH]
        tasks = [harness.send(each) for each in classes]
        await settle()
        while not all(task.done() for task in tasks):
            await harness.finish(*harness.engine.running)
            # The end of an interactive request is noticed by the others at their next look.
            await asyncio.sleep(POLL_S)
            await settle()
        await asyncio.gather(*tasks)
        assert harness.engine.began == [1, 4, 6, 3, 5, 2, 7]

    run(scenario())


def test_interactive_requests_may_use_all_slots_and_others_their_allowance(clock):
    async def scenario():
        harness = Harness(Fixed(1))
        tasks = [harness.send(BATCH) for _ in range(3)] + [harness.send(INTERACTIVE) for _ in range(4)]
        await settle()
        assert harness.counts(BATCH) == (1, 2)
        assert harness.counts(INTERACTIVE) == (3, 1), "the fourth slot is the batch's, and can't be taken back"
        await harness.finish(1)
        assert harness.counts(INTERACTIVE) == (4, 0)
        assert harness.counts(BATCH) == (0, 2)
        await cancel(tasks)

    run(scenario())


def test_batches_leave_sequences_of_the_engine_free(clock):
    """More requests may run than the engine computes at a time; the others would wait inside it."""

    async def scenario():
        harness = Harness(max_running=100)
        await harness.admission.start()
        tasks = [harness.send(BATCH) for _ in range(9)]
        await settle()
        assert harness.counts(BATCH) == (3, 6)
        tasks += [harness.send(INTERACTIVE) for _ in range(9)]
        await settle()
        assert harness.counts(INTERACTIVE) == (9, 0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(scenario())


def test_an_allowance_that_grows_is_noticed_without_any_request_that_ends(clock):
    async def scenario():
        policy = Fixed(0)
        harness = Harness(policy)
        tasks = [harness.send(BATCH), harness.send(FLEX)]
        await settle()
        assert not harness.engine.began
        policy.own = Allowance(5, 10**6)
        await asyncio.sleep(POLL_S)
        await settle()
        assert harness.engine.began == [2, 1]
        await cancel(tasks)

    run(scenario())


def test_no_request_passes_one_of_a_more_urgent_class_that_waits(clock):
    async def scenario():
        harness = Harness(Fixed(9), max_running_tokens=12)
        tasks = [harness.send(INTERACTIVE, 8), harness.send(FLEX, 6), harness.send(BATCH, 1)]
        await asyncio.sleep(POLL_S)
        await settle()
        assert harness.engine.began == [1], "the batch has room, but a flex request waits"
        tasks.append(harness.send(INTERACTIVE, 9))
        await settle()
        await harness.finish(1)
        await asyncio.sleep(POLL_S)
        await settle()
        assert harness.engine.began == [1, 4], "the others have room, but an interactive request waited"
        tasks.append(harness.send(INTERACTIVE, 5))
        tasks[1].cancel()
        await asyncio.sleep(POLL_S)
        tasks.append(harness.send(BATCH, 1))
        await asyncio.sleep(POLL_S)
        await settle()
        assert harness.engine.began == [1, 4]
        await cancel(tasks)

    run(scenario())


def test_flex_and_batch_share_a_ceiling(clock):
    async def scenario():
        policy = Fixed(9)
        policy.most = Allowance(2, 10)
        harness = Harness(policy)
        tasks = [harness.send(FLEX), harness.send(BATCH), harness.send(BATCH)]
        await settle()
        assert harness.engine.began == [1, 2]
        await harness.finish(1)
        assert harness.engine.began == [1, 2, 3]
        await harness.finish(2)
        tasks.append(harness.send(BATCH, 10))
        await settle()
        assert harness.engine.began == [1, 2, 3], "eleven tokens are too many for both"
        await cancel(tasks)

    run(scenario())


def test_the_allowance_is_in_tokens_too_and_one_request_may_exceed_it(clock):
    async def scenario():
        harness = Harness(Fixed(9, tokens=10))
        tasks = [harness.send(BATCH, 20), harness.send(BATCH, 1), harness.send(BATCH, 9)]
        await settle()
        assert harness.engine.began == [1]
        await harness.finish(1)
        assert harness.engine.began == [1, 2, 3]
        await cancel(tasks)

    run(scenario())


def test_a_batch_request_larger_than_all_bounds_runs_alone(clock):
    async def scenario():
        harness = Harness(Fixed(9), max_running_tokens=10)
        tasks = [harness.send(INTERACTIVE), harness.send(BATCH, 50), harness.send(BATCH, 1)]
        await settle()
        assert harness.engine.began == [1]
        await harness.finish(1)
        await asyncio.sleep(POLL_S)
        await settle()
        assert harness.engine.began == [1, 2]
        await harness.finish(2)
        assert harness.engine.began == [1, 2, 3]
        await cancel(tasks)

    run(scenario())


def test_waiting_batch_requests_take_no_place_of_interactive_ones(clock):
    async def scenario():
        harness = Harness(Fixed(0), max_running=1, max_waiting=1)
        tasks = [harness.send(BATCH) for _ in range(50)] + [harness.send(INTERACTIVE) for _ in range(2)]
        await settle()
        load = harness.admission.load
        assert (load.running, load.waiting) == (1, 1)
        assert harness.counts(BATCH) == (0, 50)
        with pytest.raises(OverloadedError) as caught:
            await harness.send(INTERACTIVE)
        assert caught.value.code == "queue_full"
        await cancel(tasks)

    run(scenario())


def test_flex_requests_are_refused_when_there_is_no_room(clock):
    async def scenario():
        harness = Harness(Fixed(0), max_waiting=2)
        tasks = [harness.send(FLEX), harness.send(FLEX)]
        await settle()
        with pytest.raises(OverloadedError) as caught:
            await harness.send(FLEX)
        error = caught.value
        assert (error.status, error.code, error.param) == (429, "resource_unavailable", "service_tier")
        assert error.retry_after_s
        tasks.append(harness.send(INTERACTIVE))
        await settle()
        assert harness.counts(INTERACTIVE) == (1, 0)
        await cancel(tasks)

    run(scenario())


def test_a_batch_gives_way_to_the_interactive_requests_of_another_role(clock):
    async def scenario():
        activity = InteractiveActivity()
        embed, generate = Harness(activity=activity), Harness(activity=activity)
        chat = generate.send(INTERACTIVE)
        await settle()
        tasks = [embed.send(BATCH) for _ in range(3)]
        await settle()
        assert embed.counts(BATCH) == (1, 2)
        await generate.finish(1)
        await chat
        await asyncio.sleep(QUIET_S + RAMP_S + POLL_S)
        await settle()
        assert embed.counts(BATCH) == (3, 0), "three of four slots, once the other role is quiet"
        await cancel(tasks)

    run(scenario())


def test_no_timer_remains_when_nothing_waits(clock):
    async def scenario():
        harness = Harness(Fixed(0))
        task = harness.send(BATCH)
        await settle()
        await cancel([task])
        await asyncio.sleep(POLL_S)
        # The simulated clock fails the test if all tasks wait; a timer of admission would wake it.
        with pytest.raises(AssertionError, match="no timer"):
            asyncio.get_running_loop()._selector.select(None)

    run(scenario())


async def cancel(tasks: list[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


MAX_RUNNING, MAX_TOKENS, MAX_WAITING = 3, 12, 4


class Machine(RuleBasedStateMachine):
    """Random arrivals, ends, cancellations and changes of the allowance, compared with what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = InstantLoop()
        self.policy = Fixed(2, tokens=8)
        self.harness = self.run(self.start())
        self.tasks: dict[int, asyncio.Task] = {}
        self.classes: dict[int, ServiceClass] = {}
        self.tokens: dict[int, int] = {}

    async def start(self) -> Harness:
        bounds = {"max_running": MAX_RUNNING, "max_running_tokens": MAX_TOKENS, "max_waiting": MAX_WAITING}
        return Harness(self.policy, **bounds, max_waiting_tokens=30)

    def run(self, step):
        return self.loop.run_until_complete(step)

    def teardown(self) -> None:
        self.run(cancel(list(self.tasks.values())))
        load = self.harness.admission.load
        assert (load.running, load.waiting, load.running_tokens, load.waiting_tokens) == (0, 0, 0, 0)
        assert all(
            each == type(each)(running=0, waiting=0, running_tokens=0, waiting_tokens=0)
            for each in load.classes.values()
        )
        self.loop.close()

    @property
    def waiting(self) -> list[int]:
        return [number for number, task in self.tasks.items() if self.is_waiting(number, task)]

    def is_waiting(self, number: int, task: asyncio.Task) -> bool:
        return not task.done() and number not in self.harness.engine.running

    def running(self, *classes: ServiceClass) -> list[int]:
        return [number for number in self.harness.engine.running if self.classes[number] in classes]

    @rule(service_class=st.sampled_from(ServiceClass), tokens=st.integers(1, 15))
    def arrive(self, service_class: ServiceClass, tokens: int) -> None:
        before = [number for number in self.waiting if self.classes[number] is service_class]

        async def step() -> asyncio.Task:
            task = self.harness.send(service_class, tokens)
            await settle()
            return task

        task, number = self.run(step()), self.harness.sent
        if task.done():
            assert isinstance(task.exception(), OverloadedError)
            assert service_class is not BATCH
            assert len(before) >= MAX_WAITING or sum(self.tokens[each] for each in before) + tokens > 30
            return
        self.tasks[number], self.classes[number], self.tokens[number] = task, service_class, tokens

    @precondition(lambda self: self.harness.engine.running)
    @rule(data=st.data())
    def end(self, data) -> None:
        self.run(self.harness.finish(data.draw(st.sampled_from(sorted(self.harness.engine.running)))))

    @precondition(lambda self: any(not task.done() for task in self.tasks.values()))
    @rule(data=st.data())
    def leave(self, data) -> None:
        living = sorted(number for number, task in self.tasks.items() if not task.done())
        for number in data.draw(st.sets(st.sampled_from(living), min_size=1)):
            self.tasks[number].cancel()
        self.run(settle())

    @rule(running=st.integers(0, 4), tokens=st.sampled_from([4, 8, 10**6]))
    def change_allowance(self, running: int, tokens: int) -> None:
        self.policy.own = Allowance(running, tokens)
        self.run(asyncio.sleep(2 * POLL_S))

    @invariant()
    def bounds_hold(self) -> None:
        running = list(self.harness.engine.running)
        assert len(running) <= MAX_RUNNING
        assert len(running) == 1 or sum(self.tokens[each] for each in running) <= MAX_TOKENS

    @invariant()
    def counts_are_exact(self) -> None:
        load = self.harness.admission.load
        assert load.running == len(self.harness.engine.running)
        for service_class in ServiceClass:
            own, running = load.classes[service_class.name.lower()], self.running(service_class)
            waiting = [number for number in self.waiting if self.classes[number] is service_class]
            assert (own.running, own.waiting) == (len(running), len(waiting))
            assert own.running_tokens == sum(self.tokens[number] for number in running)
            assert own.waiting_tokens == sum(self.tokens[number] for number in waiting)

    @invariant()
    def interactive_requests_wait_only_for_room(self) -> None:
        head = next(self.heads(INTERACTIVE), None)
        if head is not None:
            running = self.running(*ServiceClass)
            is_full = sum(self.tokens[each] for each in running) + self.tokens[head] > MAX_TOKENS
            assert running
            assert len(running) == MAX_RUNNING or is_full

    @invariant()
    def each_class_is_first_in_first_out(self) -> None:
        for service_class in ServiceClass:
            began = [number for number in self.harness.engine.began if self.classes.get(number) is service_class]
            assert began == sorted(began)
            head = next(self.heads(service_class), None)
            assert head is None or all(number < head for number in began)

    def heads(self, service_class: ServiceClass) -> Iterator[int]:
        return (number for number in self.waiting if self.classes[number] is service_class)


Machine.TestCase.settings = settings(stateful_step_count=40, deadline=None)
test_any_order_of_events = Machine.TestCase
