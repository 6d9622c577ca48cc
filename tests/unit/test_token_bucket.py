import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.policies.token_bucket import Bucket, duration


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_full_quota_can_be_taken_at_once(clock):
    bucket = Bucket(3, clock=clock)
    assert [bucket.take(1) for _ in range(3)] == [0, 0, 0]
    assert bucket.remaining == 0
    assert bucket.take(1) == pytest.approx(20)


def test_it_refills_continuously(clock):
    bucket = Bucket(60, clock=clock)
    bucket.take(60)
    clock.now += 1.5
    assert bucket.remaining == 1
    assert bucket.reset_s == pytest.approx(58.5)
    clock.now += 1000
    assert (bucket.remaining, bucket.reset_s) == (60, 0)


def test_a_rejected_amount_is_not_taken(clock):
    bucket = Bucket(10, clock=clock)
    bucket.take(8)
    assert bucket.take(5) > 0
    assert bucket.remaining == 2


def test_the_amount_is_available_after_the_returned_time(clock):
    bucket = Bucket(7, clock=clock)
    bucket.take(7)
    clock.now += bucket.take(2) + 1e-9
    assert bucket.take(2) == 0


def test_more_than_the_capacity_is_never_available(clock):
    assert Bucket(10, clock=clock).take(11) == math.inf


def test_unused_amounts_are_given_back_up_to_the_capacity(clock):
    bucket = Bucket(10, clock=clock)
    bucket.take(8)
    bucket.give(5)
    assert bucket.remaining == 7
    bucket.give(100)
    assert bucket.remaining == 10


def test_use_beyond_the_estimate_delays_the_next_request(clock):
    bucket = Bucket(60, clock=clock)
    bucket.take(60)
    bucket.give(-30)
    assert bucket.remaining == 0
    assert bucket.take(1) == pytest.approx(31)


@pytest.mark.parametrize(("per_minute", "shares", "capacity"), [(60, 1, 60), (60, 4, 15), (7, 2, 3), (1, 4, 1)])
def test_several_buckets_share_a_quota(clock, per_minute, shares, capacity):
    bucket = Bucket(per_minute, shares=shares, clock=clock)
    assert bucket.capacity == bucket.remaining == capacity
    bucket.take(capacity)
    clock.now += 30
    assert bucket.take(1) in (0, pytest.approx(60 / (per_minute / shares) - 30))


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 30)), max_size=60))
def test_at_most_twice_the_quota_is_taken_per_minute(steps):
    clock = Clock()
    bucket = Bucket(30, clock=clock)
    taken: list[tuple[float, int]] = []
    for amount, wait in steps:
        if bucket.take(amount) == 0:
            taken.append((clock.now, amount))
        clock.now += wait
    for begin, _ in taken:
        assert sum(amount for at, amount in taken if begin <= at <= begin + 60) <= 60 + 1e-6


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (-1, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (61.25, "1m1.25s"),
        (3600, "1h0m0s"),
    ],
)
def test_durations_are_formatted_as_openai_does(seconds, written):
    assert duration(seconds) == written
