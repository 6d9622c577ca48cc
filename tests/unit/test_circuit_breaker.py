import pytest

from domain.health import BreakerState
from domain.policies.circuit_breaker import MAX_COOL_DOWN_FACTOR, WINDOW, CircuitBreaker
from domain.policies.retry_budget import FLOOR_PER_S, MAX_TOKENS, RetryBudget

COOL_DOWN_S = 4.0


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock) -> CircuitBreaker:
    return CircuitBreaker(clock, failures=3, cool_down_s=COOL_DOWN_S)


def fail(breaker: CircuitBreaker, times: int = 3, *, is_silent: bool = True) -> None:
    for _ in range(times):
        assert breaker.enter()
        breaker.failed(is_silent=is_silent)


def test_consecutive_failures_open_it(breaker):
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allows()
    assert not breaker.enter()
    assert breaker.openings == 1


def test_an_answer_resets_the_count_of_failures(breaker):
    for _ in range(5):
        fail(breaker, 2)
        assert breaker.enter()
        breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_a_failure_rate_of_half_opens_it(breaker):
    for outcome in range(WINDOW - 1):
        assert breaker.enter()
        breaker.failed(is_silent=False) if outcome % 2 else breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    assert breaker.enter()
    breaker.failed(is_silent=False)
    assert breaker.state is BreakerState.OPEN


def test_a_lower_failure_rate_does_not_open_it(breaker):
    for outcome in range(10 * WINDOW):
        assert breaker.enter()
        breaker.succeeded() if outcome % 3 else breaker.failed(is_silent=False)
    assert breaker.state is BreakerState.CLOSED


def test_one_trial_request_passes_after_the_cool_down(breaker, clock):
    fail(breaker)
    clock.seconds += COOL_DOWN_S - 0.1
    assert breaker.state is BreakerState.OPEN
    clock.seconds += 0.1
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.enter()
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.allows()
    assert not breaker.enter()


def test_a_successful_trial_closes_it(breaker, clock):
    fail(breaker)
    clock.seconds += COOL_DOWN_S
    assert breaker.enter()
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED, "earlier outcomes are discarded"


def test_a_failed_trial_doubles_the_cool_down_up_to_a_limit(breaker, clock):
    fail(breaker)
    waits = []
    for _ in range(10):
        waits.append(breaker.retry_after_s)
        clock.seconds += breaker.retry_after_s
        fail(breaker, 1)
    assert waits[:4] == [4, 8, 16, 32]
    assert waits[-1] == COOL_DOWN_S * MAX_COOL_DOWN_FACTOR
    assert breaker.openings == 11


def test_an_abandoned_trial_frees_the_slot(breaker, clock):
    fail(breaker)
    clock.seconds += COOL_DOWN_S
    assert breaker.enter()
    breaker.abandoned()
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.enter()


def test_outcomes_of_earlier_requests_are_ignored_while_it_is_open(breaker, clock):
    fail(breaker)
    clock.seconds += 1
    breaker.failed(is_silent=True)
    breaker.succeeded()
    assert breaker.state is BreakerState.OPEN
    assert (breaker.openings, breaker.retry_after_s) == (1, 3)


def test_cool_down_can_be_ended_early(breaker):
    fail(breaker)
    breaker.cool_down()
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.enter()
    assert not breaker.enter()


def test_retry_after_is_at_least_a_second(breaker, clock):
    fail(breaker)
    clock.seconds += COOL_DOWN_S - 0.01
    assert breaker.retry_after_s == 1


def test_a_budget_starts_full_and_is_limited(clock):
    budget = RetryBudget(clock, share=0.2)
    assert sum(budget.spend() for _ in range(1000)) == MAX_TOKENS


def test_requests_earn_a_share_of_retries(clock):
    budget = RetryBudget(clock, share=0.2)
    while budget.spend():
        pass
    for _ in range(51):
        budget.earn()
    assert sum(budget.spend() for _ in range(1000)) == 10


def test_a_few_retries_are_allowed_without_requests(clock):
    budget = RetryBudget(clock, share=0.2)
    while budget.spend():
        pass
    clock.seconds += 5
    assert sum(budget.spend() for _ in range(1000)) == 5 * FLOOR_PER_S


def test_the_budget_has_a_maximum(clock):
    budget = RetryBudget(clock, share=0.2)
    for _ in range(10_000):
        budget.earn()
    clock.seconds += 10_000
    assert sum(budget.spend() for _ in range(1000)) == MAX_TOKENS
