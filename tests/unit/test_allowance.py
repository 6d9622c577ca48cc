"""Allowances: how much the classes that give way may use, as time passes."""

import pytest

from domain.load import Bounds
from domain.policies.allowance import (
    CEILING,
    NOTHING,
    QUIET_S,
    RAMP_S,
    Allowance,
    BatchRules,
    InteractiveActivity,
    YieldingPolicy,
)
from domain.service_class import ServiceClass

BATCH, FLEX = ServiceClass.BATCH, ServiceClass.FLEX
BOUNDS = Bounds(max_running=100, max_running_tokens=1000)
FULL = Allowance(75, 750.0)


class Harness:
    def __init__(self, busy_running: float = 0.02) -> None:
        self.activity = InteractiveActivity()
        self.present = 0
        self.activity.sources.append(lambda: self.present)
        self.policy = YieldingPolicy(BOUNDS, self.activity, BatchRules(busy_running=busy_running))

    def batch(self, now: float) -> Allowance:
        return self.policy.allowance(BATCH, now)


def test_without_interactive_requests_batches_get_all_but_a_reserve():
    harness = Harness()
    assert harness.batch(0.0) == harness.policy.ceiling() == FULL
    assert CEILING < 1


def test_a_ceiling_is_at_least_one_request():
    policy = YieldingPolicy(Bounds(max_running=1), InteractiveActivity(), BatchRules())
    assert policy.allowance(BATCH, 0.0).running == policy.ceiling().running == 1


@pytest.mark.parametrize(("sequences", "running"), [(40, 30), (1000, 75), (None, 75), (1, 1)])
def test_the_ceiling_follows_the_sequences_of_the_engine(sequences, running):
    harness = Harness()
    harness.policy.engine_started(4)
    assert harness.policy.ceiling().running == 3
    harness.policy.engine_started(sequences)
    assert harness.batch(0.0) == harness.policy.ceiling() == Allowance(running, 750.0)


def test_the_allowance_drops_at_once_and_grows_again_step_by_step():
    harness = Harness()
    harness.present = 1
    assert harness.batch(10.0) == Allowance(1, 750.0)
    harness.present = 0
    assert harness.batch(10.0 + QUIET_S / 2) == Allowance(1, 750.0), "a closed-loop client is only thinking"
    grown = [harness.batch(10.0 + QUIET_S + RAMP_S * part / 10).running for part in range(12)]
    assert grown == sorted(grown)
    assert (grown[0], grown[-1]) == (1, 75)
    assert harness.batch(10.0 + QUIET_S + RAMP_S) == FULL


def test_while_interactive_requests_run_a_batch_has_its_share_of_the_time():
    harness = Harness(busy_running=0.1)
    harness.present = 1
    assert harness.batch(10.0).running == 1
    harness.policy.ended(BATCH, 10.0, 12.0)
    assert harness.batch(12.1) == NOTHING
    assert harness.batch(29.9) == NOTHING, "two of twenty seconds are a tenth"
    assert harness.batch(30.0).running == 1


def test_requests_from_before_do_not_count_against_the_share():
    harness = Harness(busy_running=0.1)
    assert harness.batch(5.0) == FULL
    harness.present = 1
    assert harness.batch(10.0).running == 1
    harness.policy.ended(BATCH, 5.0, 11.0)
    assert harness.batch(11.0).running == 1


def test_a_pause_ends_once_interactive_requests_are_absent():
    harness = Harness(busy_running=0.01)
    harness.present = 1
    harness.batch(0.0)
    harness.policy.ended(BATCH, 0.0, 10.0)
    harness.present = 0
    assert harness.batch(11.0 + QUIET_S + RAMP_S) == FULL
    harness.present = 1
    assert harness.batch(20.0).running == 1


@pytest.mark.parametrize(("busy_running", "allowed"), [(0.0, 0), (1.0, 1), (3.0, 3), (3.7, 3)])
def test_batches_may_be_given_none_or_several_at_any_time(busy_running, allowed):
    harness = Harness(busy_running)
    harness.present = 1
    assert harness.batch(10.0).running == allowed
    harness.policy.ended(BATCH, 10.0, 20.0)
    assert harness.batch(20.0).running == allowed


def test_one_flex_request_may_always_run():
    harness = Harness(busy_running=0.0)
    harness.present = 5
    assert harness.policy.allowance(FLEX, 10.0).running == 1
    harness.policy.ended(FLEX, 10.0, 20.0)
    assert harness.policy.allowance(FLEX, 20.0).running == 1


def test_interactive_requests_of_every_role_count():
    harness = Harness()
    harness.activity.sources.append(lambda: 1)
    assert harness.batch(10.0).running == 1
