import asyncio
import contextlib
import itertools

import pytest

from adapters.retrying import LONGEST_RETRY_AFTER_S, LONGEST_WAIT_S, RetryingBackend
from domain.errors import (
    BackendBusyError,
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    BackendUnreachableError,
    ContextLengthError,
)
from domain.policies.retry_budget import MAX_TOKENS, RetryBudget
from domain.port import RequestContext
from domain.requests import DetokenizeRequest, EmbeddingRequest, GenerationRequest, TokenizeRequest
from domain.results import GenerationDelta
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.calls import events_of, stream
from tests.fakes import FakeBackend
from tests.unit.waiting import now, run_instantly

CONTEXT = RequestContext(request_id="test")
TEXT = EmbeddingRequest(inputs=["text"])
PROMPT = GenerationRequest(prompt="x", sampling=SamplingParameters(max_tokens=3, temperature=0.0))
GONE = BackendUnreachableError("Gone.", retry_after_s=1)
SAFE = [GONE, BackendBusyError("Busy.", retry_after_s=1)]
UNSAFE = [
    BackendUnavailableError("Broke off."),
    BackendTimeoutError("Silent."),
    BackendFailedError("Failed."),
    ContextLengthError(256, param="input"),
    RuntimeError("A fault of ours."),
]


class Failing(FakeBackend):
    """Fails so many requests in so many ways before it answers."""

    def __init__(self, role: Role = Role.EMBED) -> None:
        super().__init__(role)
        self.failures: list[Exception] = []
        self.asked_at: list[float] = []

    def _trip(self) -> None:
        self.asked_at.append(now())
        if self.failures:
            raise self.failures.pop(0)

    async def call(self, request, context):
        self._trip()
        return await super().call(request, context)

    @contextlib.asynccontextmanager
    async def stream(self, request, context):
        self._trip()
        async with super().stream(request, context) as events:
            yield events


class Stage:
    def __init__(self, role: Role = Role.EMBED, *, retries: int = 2, has_free: bool = False) -> None:
        self.engine = Failing(role)
        self.budget = RetryBudget(now, share=0.2)
        self.backend = RetryingBackend(self.engine, retries=retries, budget=self.budget, has_free=lambda: has_free)

    @property
    def attempts(self) -> int:
        return len(self.engine.asked_at)


async def started(role: Role = Role.EMBED, *failures: Exception, **options) -> Stage:
    stage = Stage(role, **options)
    await stage.backend.start()
    stage.engine.failures = list(failures)
    return stage


CALLS = {
    "embed": (Role.EMBED, lambda backend: backend.call(TEXT, CONTEXT)),
    "generate": (Role.GENERATE, lambda backend: backend.call(PROMPT, CONTEXT)),
    "stream": (Role.GENERATE, lambda backend: events_of(backend, PROMPT, CONTEXT)),
    "tokenize": (Role.EMBED, lambda backend: backend.call(TokenizeRequest(prompt="x"), CONTEXT)),
    "detokenize": (Role.EMBED, lambda backend: backend.call(DetokenizeRequest(token_ids=[65]), CONTEXT)),
}


@pytest.mark.parametrize("failure", SAFE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("call", CALLS)
def test_what_nobody_has_begun_is_asked_again(call, failure):
    async def scenario():
        role, ask = CALLS[call]
        stage = await started(role, failure, failure)
        result = await ask(stage.backend)
        assert result == await ask(stage.engine)
        assert (stage.attempts, stage.backend.retries, stage.backend.given_up) == (4, 2, 0)

    run_instantly(scenario())


@pytest.mark.parametrize("failure", UNSAFE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("call", CALLS)
def test_anything_else_is_the_clients_to_know(call, failure):
    async def scenario():
        role, ask = CALLS[call]
        stage = await started(role, failure)
        with pytest.raises(type(failure)) as caught:
            await ask(stage.backend)
        assert caught.value is failure
        assert stage.attempts == 1

    run_instantly(scenario())


@pytest.mark.parametrize("failure", SAFE, ids=lambda error: type(error).__name__)
def test_an_answer_that_has_begun_is_never_begun_again(failure):
    async def scenario():
        stage = await started(Role.GENERATE)
        stage.engine.fail_next = failure
        events = stream(stage.backend, PROMPT, CONTEXT)
        assert isinstance(await anext(events), GenerationDelta)
        with pytest.raises(type(failure)):
            await anext(events)
        assert stage.attempts == 1

    run_instantly(scenario())


def test_an_unsafe_failure_after_a_safe_one_ends_it():
    async def scenario():
        stage = await started(Role.EMBED, GONE, BackendTimeoutError("Silent."))
        with pytest.raises(BackendTimeoutError):
            await stage.backend.call(TEXT, CONTEXT)
        assert stage.attempts == 2

    run_instantly(scenario())


@pytest.mark.parametrize("retries", [1, 3])
def test_a_request_is_asked_again_so_often(retries):
    async def scenario():
        stage = await started(Role.EMBED, *[GONE] * 10, retries=retries)
        with pytest.raises(BackendUnreachableError) as caught:
            await stage.backend.call(TEXT, CONTEXT)
        assert caught.value is GONE
        assert (stage.attempts, stage.backend.given_up) == (1 + retries, 1)

    run_instantly(scenario())


def test_waits_are_random_and_grow_and_end_somewhere():
    async def waits() -> list[float]:
        stage = await started(Role.EMBED, *(BackendUnreachableError("Gone.") for _ in range(12)), retries=12)
        await stage.backend.call(TEXT, CONTEXT)
        times = stage.engine.asked_at
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    several = [run_instantly(waits()) for _ in range(20)]
    longest = [max(wait) for wait in zip(*several, strict=True)]
    assert len({tuple(one) for one in several}) == 20
    assert longest[0] <= 0.1 + 1e-9
    assert longest[0] < longest[4]
    assert max(longest) <= LONGEST_WAIT_S + 1e-9


def test_a_busy_server_is_given_the_time_that_it_asked_for():
    async def scenario():
        stage = await started(Role.EMBED, BackendBusyError("Busy.", retry_after_s=3))
        await stage.backend.call(TEXT, CONTEXT)
        first, second = stage.engine.asked_at
        assert 3 <= second - first <= 3.1 + 1e-9

    run_instantly(scenario())


def test_unless_another_one_is_free():
    async def scenario():
        stage = await started(Role.EMBED, BackendBusyError("Busy.", retry_after_s=3000), has_free=True)
        await stage.backend.call(TEXT, CONTEXT)
        first, second = stage.engine.asked_at
        assert second - first <= 0.1 + 1e-9

    run_instantly(scenario())


def test_one_that_is_busy_for_long_is_not_waited_for_and_the_client_told_for_how_long():
    async def scenario():
        stage = await started(Role.EMBED, BackendBusyError("Busy.", retry_after_s=LONGEST_RETRY_AFTER_S + 1))
        with pytest.raises(BackendBusyError) as caught:
            await stage.backend.call(TEXT, CONTEXT)
        assert caught.value.retry_after_s == LONGEST_RETRY_AFTER_S + 1
        assert (stage.attempts, now()) == (1, 0)

    run_instantly(scenario())


def test_an_overload_is_not_doubled():
    async def scenario():
        stage = await started(Role.EMBED, *(BackendUnreachableError("Gone.") for _ in range(5000)))
        asks = [stage.backend.call(TEXT, CONTEXT) for _ in range(2000)]
        results = await asyncio.gather(*asks, return_exceptions=True)
        assert {type(result) for result in results} == {BackendUnreachableError}
        # Saved up, a fifth of the requests, and a few for the seconds that it took.
        assert stage.backend.retries <= MAX_TOKENS + 0.2 * 2000 + 10
        assert stage.attempts == 2000 + stage.backend.retries
        assert stage.backend.given_up == 2000

    run_instantly(scenario())


def test_a_client_that_leaves_while_it_waits_is_asked_for_no_more():
    async def scenario():
        stage = await started(Role.EMBED, BackendBusyError("Busy.", retry_after_s=3))
        task = asyncio.create_task(stage.backend.call(TEXT, CONTEXT))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(10)
        assert task.cancelled()
        assert stage.attempts == 1

    run_instantly(scenario())


def test_requests_that_fail_at_the_same_time_do_not_share_their_counts():
    async def scenario():
        stage = await started(Role.EMBED, *(BackendUnreachableError("Gone.") for _ in range(10)), retries=1)
        results = await asyncio.gather(*(stage.backend.call(TEXT, CONTEXT) for _ in range(10)))
        assert len(results) == 10
        assert (stage.attempts, stage.backend.retries) == (20, 10)

    run_instantly(scenario())
