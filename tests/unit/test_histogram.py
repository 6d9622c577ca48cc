"""Percentiles estimated from bins, compared with those of the durations."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.histogram import BINS_PER_DECADE, LAST_BIN, LONGEST_S, SHORTEST_S, Histogram, bound

BIN_WIDTH = 10 ** (1 / BINS_PER_DECADE)
DURATIONS = st.lists(st.floats(SHORTEST_S * 1.01, LONGEST_S, allow_nan=False), min_size=1, max_size=200)


def of(*durations: float) -> Histogram:
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    return histogram


def nearest_rank(durations: list[float], percent: float) -> float:
    return sorted(durations)[max(1, math.ceil(percent / 100 * len(durations))) - 1]


def test_an_empty_histogram_has_no_percentiles():
    assert Histogram().percentile(50) is None
    assert len(Histogram()) == 0


@given(DURATIONS, st.sampled_from([0.1, 1, 50, 90, 95, 99, 100]))
def test_a_percentile_is_off_by_a_bin_at_most(durations, percent):
    found, true = of(*durations).percentile(percent), nearest_rank(durations, percent)
    assert true / BIN_WIDTH * (1 - 1e-9) <= found <= true * BIN_WIDTH * (1 + 1e-9)


@given(DURATIONS)
def test_percentiles_rise(durations):
    histogram = of(*durations)
    found = [histogram.percentile(percent) for percent in (1, 25, 50, 75, 95, 99, 100)]
    assert found == sorted(found)


def test_one_duration_is_estimated_in_the_middle_of_its_bin():
    assert of(0.0123).percentile(99) == pytest.approx(0.0123, rel=0.065)
    assert of(bound(10)).percentile(50) == pytest.approx(bound(9.5))


def test_durations_of_a_bin_are_evenly_spaced():
    histogram = of(*[bound(10)] * 4)
    assert [histogram.percentile(percent) for percent in (25, 50, 75, 100)] == pytest.approx(
        [bound(9.125), bound(9.375), bound(9.625), bound(9.875)]
    )


@pytest.mark.parametrize("index", [1, 7, 20, 63, 100, LAST_BIN])
def test_a_bound_belongs_to_the_bin_below_it(index):
    assert bound(index - 1) < of(bound(index)).percentile(50) < bound(index)
    if index < LAST_BIN:
        assert of(bound(index) * 1.0001).percentile(50) > bound(index)


def test_durations_out_of_range_are_counted_in_the_outer_bins():
    assert of(0.0, -1.0).percentile(100) <= SHORTEST_S
    assert of(LONGEST_S * 1000).percentile(50) == pytest.approx(LONGEST_S, rel=0.12)


@given(DURATIONS, DURATIONS)
def test_a_merged_histogram_equals_one_of_all_durations(first, second):
    merged = of(*first)
    merged.merge(of(*second))
    whole = of(*first, *second)
    assert len(merged) == len(whole)
    assert [merged.percentile(p) for p in (5, 50, 99)] == [whole.percentile(p) for p in (5, 50, 99)]
