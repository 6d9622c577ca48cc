import asyncio
import contextlib
import itertools

import pytest

from adapters.retrying import MAX_RETRY_AFTER_S, MAX_WAIT_S, RetryingBackend
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
    """Raises the given failures, one per request, before it answers."""

    def __init__(self, role: Role = Role.EMBED) -> None:
        super().__init__(role)
        self.failures: list[Exception] = []
        self.called_at: list[float] = []

    def _fail(self) -> None:
        self.called_at.append(now())
        if self.failures:
            raise self.failures.pop(0)

    async def call(self, request, context):
        self._fail()
        return await super().call(request, context)

    @contextlib.asynccontextmanager
    async def stream(self, request, context):
        self._fail()
        async with super().stream(request, context) as events:
            yield events


class Harness:
    def __init__(self, role: Role = Role.EMBED, *, retries: int = 2, has_free: bool = False) -> None:
        self.engine = Failing(role)
        self.budget = RetryBudget(now, share=0.2)
        self.backend = RetryingBackend(self.engine, retries=retries, budget=self.budget, has_free=lambda: has_free)

    @property
    def attempts(self) -> int:
        return len(self.engine.called_at)


async def started(role: Role = Role.EMBED, *failures: Exception, **options) -> Harness:
    harness = Harness(role, **options)
    await harness.backend.start()
    harness.engine.failures = list(failures)
    return harness


CALLS = {
    "embed": (Role.EMBED, lambda backend: backend.call(TEXT, CONTEXT)),
    "generate": (Role.GENERATE, lambda backend: backend.call(PROMPT, CONTEXT)),
    "stream": (Role.GENERATE, lambda backend: events_of(backend, PROMPT, CONTEXT)),
    "tokenize": (Role.EMBED, lambda backend: backend.call(TokenizeRequest(prompt="x"), CONTEXT)),
    "detokenize": (Role.EMBED, lambda backend: backend.call(DetokenizeRequest(token_ids=[65]), CONTEXT)),
}


@pytest.mark.parametrize("failure", SAFE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("call", CALLS)
def test_requests_that_no_server_began_are_retried(call, failure):
    async def scenario():
        role, send = CALLS[call]
        harness = await started(role, failure, failure)
        result = await send(harness.backend)
        assert result == await send(harness.engine)
        assert (harness.attempts, harness.backend.retries, harness.backend.given_up) == (4, 2, 0)

    run_instantly(scenario())


@pytest.mark.parametrize("failure", UNSAFE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("call", CALLS)
def test_other_errors_are_not_retried(call, failure):
    async def scenario():
        role, send = CALLS[call]
        harness = await started(role, failure)
        with pytest.raises(type(failure)) as caught:
            await send(harness.backend)
        assert caught.value is failure
        assert harness.attempts == 1

    run_instantly(scenario())


@pytest.mark.parametrize("failure", SAFE, ids=lambda error: type(error).__name__)
def test_a_started_answer_is_not_retried(failure):
    async def scenario():
        harness = await started(Role.GENERATE)
        harness.engine.fail_next = failure
        events = stream(harness.backend, PROMPT, CONTEXT)
        assert isinstance(await anext(events), GenerationDelta)
        with pytest.raises(type(failure)):
            await anext(events)
        assert harness.attempts == 1

    run_instantly(scenario())


def test_an_unsafe_failure_after_a_safe_one_is_not_retried():
    async def scenario():
        harness = await started(Role.EMBED, GONE, BackendTimeoutError("Silent."))
        with pytest.raises(BackendTimeoutError):
            await harness.backend.call(TEXT, CONTEXT)
        assert harness.attempts == 2

    run_instantly(scenario())


@pytest.mark.parametrize("retries", [1, 3])
def test_retries_are_limited(retries):
    async def scenario():
        harness = await started(Role.EMBED, *[GONE] * 10, retries=retries)
        with pytest.raises(BackendUnreachableError) as caught:
            await harness.backend.call(TEXT, CONTEXT)
        assert caught.value is GONE
        assert (harness.attempts, harness.backend.given_up) == (1 + retries, 1)

    run_instantly(scenario())


def test_backoff_is_random_and_grows_up_to_a_limit():
    async def waits() -> list[float]:
        harness = await started(Role.EMBED, *(BackendUnreachableError("Gone.") for _ in range(12)), retries=12)
        await harness.backend.call(TEXT, CONTEXT)
        times = harness.engine.called_at
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    several = [run_instantly(waits()) for _ in range(20)]
    longest = [max(wait) for wait in zip(*several, strict=True)]
    assert len({tuple(one) for one in several}) == 20
    assert longest[0] <= 0.1 + 1e-9
    assert longest[0] < longest[4]
    assert max(longest) <= MAX_WAIT_S + 1e-9


def test_retries_respect_the_servers_retry_after():
    async def scenario():
        harness = await started(Role.EMBED, BackendBusyError("Busy.", retry_after_s=3))
        await harness.backend.call(TEXT, CONTEXT)
        first, second = harness.engine.called_at
        assert 3 <= second - first <= 3.1 + 1e-9

    run_instantly(scenario())


def test_retries_are_immediate_if_another_server_is_free():
    async def scenario():
        harness = await started(Role.EMBED, BackendBusyError("Busy.", retry_after_s=3000), has_free=True)
        await harness.backend.call(TEXT, CONTEXT)
        first, second = harness.engine.called_at
        assert second - first <= 0.1 + 1e-9

    run_instantly(scenario())


def test_a_long_retry_after_is_passed_to_the_client():
    async def scenario():
        harness = await started(Role.EMBED, BackendBusyError("Busy.", retry_after_s=MAX_RETRY_AFTER_S + 1))
        with pytest.raises(BackendBusyError) as caught:
            await harness.backend.call(TEXT, CONTEXT)
        assert caught.value.retry_after_s == MAX_RETRY_AFTER_S + 1
        assert (harness.attempts, now()) == (1, 0)

    run_instantly(scenario())


def test_the_budget_limits_retries_in_an_overload():
    async def scenario():
        harness = await started(Role.EMBED, *(BackendUnreachableError("Gone.") for _ in range(5000)))
        calls = [harness.backend.call(TEXT, CONTEXT) for _ in range(2000)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {BackendUnreachableError}
        # The initial budget, a fifth of the requests, and a few for the elapsed seconds.
        assert harness.backend.retries <= MAX_TOKENS + 0.2 * 2000 + 10
        assert harness.attempts == 2000 + harness.backend.retries
        assert harness.backend.given_up == 2000

    run_instantly(scenario())


def test_a_cancelled_request_is_not_retried():
    async def scenario():
        harness = await started(Role.EMBED, BackendBusyError("Busy.", retry_after_s=3))
        task = asyncio.create_task(harness.backend.call(TEXT, CONTEXT))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(10)
        assert task.cancelled()
        assert harness.attempts == 1

    run_instantly(scenario())


def test_concurrent_requests_count_their_own_retries():
    async def scenario():
        harness = await started(Role.EMBED, *(BackendUnreachableError("Gone.") for _ in range(10)), retries=1)
        results = await asyncio.gather(*(harness.backend.call(TEXT, CONTEXT) for _ in range(10)))
        assert len(results) == 10
        assert (harness.attempts, harness.backend.retries) == (20, 10)

    run_instantly(scenario())
