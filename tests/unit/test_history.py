"""The history: what it keeps, for how long, and what it omits."""

import dataclasses

import msgspec
import pytest

from app.http.codec import encode
from app.telemetry.histogram import Histogram
from app.telemetry.history import BUCKET_S, BUCKETS, LAST_REQUESTS, OTHER, History, LastRequest
from app.telemetry.record import UNMATCHED, RequestRecord
from domain.roles import Role
from domain.service_class import ServiceClass

CHAT = "/v1/chat/completions"
NOW = 1_000_002.0


@dataclasses.dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(clock) -> History:
    return History(clock=clock)


def record(**fields) -> RequestRecord:
    given = {"request_id": "req_1", "began": NOW, "method": "POST", "route": CHAT, "status": 200}
    return RequestRecord(**given | {"role": Role.GENERATE, "model": "write", "duration_s": 2.0} | fields)


def generate(history: History):
    return history.series().roles[Role.GENERATE]


def test_an_empty_history_has_empty_series(history):
    series = history.series()
    assert set(series.roles) == {*Role, "other"}
    for each in series.roles.values():
        assert each.requests == each.errors == each.prompt_tokens == each.completion_tokens == [0] * BUCKETS
        assert each.latency.p50 == each.first_token.p99 == [None] * BUCKETS
        assert each.latency.whole.p99 is None
    assert history.last_requests() == []


def test_the_last_bucket_is_the_open_one(history):
    series = history.series()
    assert series.begin + (BUCKETS - 1) * BUCKET_S <= NOW < series.begin + BUCKETS * BUCKET_S
    assert series.begin % BUCKET_S == 0


def test_a_request_is_counted_in_the_bucket_in_which_it_ends(history, clock):
    history.request_ended(record(prompt_tokens=7, completion_tokens=5, first_token_s=0.1))
    clock.now += BUCKET_S
    history.request_ended(record())
    history.request_ended(record(role=Role.EMBED, prompt_tokens=3))
    found = generate(history)
    assert found.requests[-3:] == [0, 1, 1]
    assert found.prompt_tokens[-2:] == [7, 0]
    assert found.completion_tokens[-2:] == [5, 0]
    assert found.first_token.p50[-2] == pytest.approx(0.1, rel=0.12)
    assert found.first_token.p50[-1] is None
    assert found.latency.p95[-1] == pytest.approx(2.0, rel=0.12)
    assert history.series().roles[Role.EMBED].prompt_tokens[-1] == 3


def test_percentiles_of_a_bucket_and_of_all_buckets(history, clock):
    for duration in [0.1] * 98 + [1.0, 10.0]:
        history.request_ended(record(duration_s=duration))
    clock.now += BUCKET_S
    history.request_ended(record(duration_s=100.0))
    found = generate(history).latency
    assert found.p50[-2] == pytest.approx(0.1, rel=0.12)
    assert found.p99[-2] == pytest.approx(1.0, rel=0.12)
    assert found.p99[-1] == pytest.approx(100.0, rel=0.12)
    assert found.whole.p99 == pytest.approx(10.0, rel=0.12)


@pytest.mark.parametrize("fields", [{"status": 503}, {"status": 400}, {"error_type": "engine_failed"}])
def test_a_failed_request_is_an_error_without_latency(history, fields):
    history.request_ended(record(**fields))
    found = generate(history)
    assert (found.requests[-1], found.errors[-1], found.latency.p50[-1]) == (1, 1, None)


def test_a_disconnected_client_is_no_error(history):
    history.request_ended(record(status=499, error_type="cancelled", client_gone=True, completion_tokens=3))
    found = generate(history)
    assert (found.requests[-1], found.errors[-1], found.latency.p50[-1]) == (1, 0, None)
    assert found.completion_tokens[-1] == 3


def test_requests_that_reach_no_engine_have_their_own_series(history):
    history.request_ended(record(role=None, model=None, route=UNMATCHED, status=404))
    assert history.series().roles[OTHER].errors[-1] == 1
    assert generate(history).requests[-1] == 0


@pytest.mark.parametrize("route", ["/", "/page/{name:str}", "/status", "/health", "/health/ready", "/metrics"])
def test_probes_are_not_recorded(history, route):
    history.request_ended(record(role=None, method="GET", route=route))
    assert history.last_requests() == []
    assert history.series().roles[OTHER].requests[-1] == 0


@pytest.mark.parametrize(
    "route", [CHAT, "/v1/models", "/tokenize", UNMATCHED, "/admin/engines/{role:str}/restart"]
)
def test_other_requests_are_recorded(history, route):
    history.request_ended(record(route=route))
    assert [request.route for request in history.last_requests()] == [route]


def test_the_last_requests_come_newest_first_and_are_bounded(history):
    for number in range(LAST_REQUESTS + 5):
        history.request_ended(record(request_id=f"req_{number}"))
    ids = [request.request_id for request in history.last_requests()]
    assert ids == [f"req_{number}" for number in reversed(range(5, LAST_REQUESTS + 5))]


@pytest.mark.parametrize("fields", [{}, {"status": 400, "error_type": "context_length_exceeded"}])
def test_lines_of_batches_count_but_are_no_last_requests(history, fields):
    history.request_ended(record(request_id="mine", service_class=ServiceClass.FLEX))
    for _ in range(LAST_REQUESTS):
        history.request_ended(record(service_class=ServiceClass.BATCH, duration_s=9_000.0, **fields))
    assert [request.request_id for request in history.last_requests()] == ["mine"]
    assert generate(history).requests[-1] == LAST_REQUESTS + 1
    # They may have waited for hours.
    assert generate(history).latency.whole.p99 == pytest.approx(record().duration_s, rel=0.2)


def test_a_line_that_is_tried_again_counts_once(history):
    for status in (503, 429, 200):
        history.request_ended(record(service_class=ServiceClass.BATCH, status=status))
    found = generate(history)
    assert (found.requests[-1], found.errors[-1]) == (1, 0)


def test_old_buckets_are_dropped(history, clock):
    history.request_ended(record())
    clock.now += (BUCKETS - 1) * BUCKET_S
    assert generate(history).requests == [1] + [0] * (BUCKETS - 1)
    clock.now += BUCKET_S
    assert sum(generate(history).requests) == 0
    history.request_ended(record())
    assert len(history._buckets) == 1


def test_memory_is_bounded(history, clock):
    for _ in range(3 * BUCKETS):
        clock.now += BUCKET_S
        history.request_ended(record())
    assert len(history._buckets) == BUCKETS
    assert generate(history).requests == [1] * BUCKETS


def test_a_clock_that_is_set_back_drops_later_buckets(history, clock):
    history.request_ended(record())
    clock.now -= 10 * BUCKET_S * BUCKETS
    history.request_ended(record())
    assert len(history._buckets) == 1
    assert generate(history).requests[-1] == 1


def test_a_last_request_has_everything_except_the_key(history):
    history.request_ended(record(key="alice", trace_id="ab" * 16, queue_s=0.5))
    (found,) = history.last_requests()
    assert set(RequestRecord.__struct_fields__) - set(LastRequest.__struct_fields__) == {"key", "service_class"}
    assert (found.trace_id, found.queue_s, found.duration_s) == ("ab" * 16, 0.5, 2.0)
    assert b"alice" not in encode(found)
    assert msgspec.json.decode(encode(found), type=LastRequest) == found


def test_a_bucket_that_was_read_includes_later_requests(history):
    history.request_ended(record(duration_s=0.1))
    assert generate(history).latency.p99[-1] == pytest.approx(0.1, rel=0.12)
    history.request_ended(record(duration_s=10.0))
    assert generate(history).latency.p99[-1] == pytest.approx(10.0, rel=0.12)


def test_closed_buckets_are_merged_once(history, clock, monkeypatch):
    for _ in range(20):
        history.request_ended(record(duration_s=0.1))
        clock.now += BUCKET_S
    assert generate(history).latency.whole.p99 == pytest.approx(0.1, rel=0.12)
    merged = []
    merge = Histogram.merge
    monkeypatch.setattr(Histogram, "merge", lambda self, other: (merged.append(other), merge(self, other)))
    history.request_ended(record(duration_s=10.0))
    found = generate(history).latency.whole
    assert (found.p50, found.p99) == (pytest.approx(0.1, rel=0.12), pytest.approx(10.0, rel=0.12))
    # For each role, and for other requests: two kinds of durations, each for closed buckets and for the open one.
    assert len(merged) == (len(Role) + 1) * 2 * 2


def test_overall_percentiles_drop_old_buckets(history, clock):
    history.request_ended(record(duration_s=10.0))
    clock.now += BUCKET_S
    history.request_ended(record(duration_s=0.1))
    assert generate(history).latency.whole.p99 == pytest.approx(10.0, rel=0.12)
    clock.now += (BUCKETS - 1) * BUCKET_S
    assert generate(history).latency.whole.p99 == pytest.approx(0.1, rel=0.12)
    clock.now += BUCKET_S
    assert generate(history).latency.whole.p99 is None
