"""What the history keeps, for how long, and what it leaves out."""

import dataclasses

import msgspec
import pytest

from app.http.codec import encode
from app.telemetry.histogram import Histogram
from app.telemetry.history import BUCKET_S, BUCKETS, LAST_REQUESTS, OTHER, History, LastRequest
from app.telemetry.record import UNMATCHED, RequestRecord
from domain.roles import Role

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


def test_an_empty_one_has_series_of_nothing(history):
    series = history.series()
    assert set(series.roles) == {"embed", "generate", "other"}
    for each in series.roles.values():
        assert each.requests == each.errors == each.prompt_tokens == each.completion_tokens == [0] * BUCKETS
        assert each.latency.p50 == each.first_token.p99 == [None] * BUCKETS
        assert each.latency.whole.p99 is None
    assert history.last_requests() == []


def test_the_last_bucket_is_the_one_under_way(history):
    series = history.series()
    assert series.begin + (BUCKETS - 1) * BUCKET_S <= NOW < series.begin + BUCKETS * BUCKET_S
    assert series.begin % BUCKET_S == 0


def test_a_request_is_counted_in_the_bucket_in_which_it_ends(history, clock):
    history.request_ended(record(prompt_tokens=7, completion_tokens=5, first_token_s=0.1))
    clock.now += BUCKET_S
    history.request_ended(record())
    history.request_ended(record(role=Role.EMBED, prompt_tokens=3))
    told = generate(history)
    assert told.requests[-3:] == [0, 1, 1]
    assert told.prompt_tokens[-2:] == [7, 0]
    assert told.completion_tokens[-2:] == [5, 0]
    assert told.first_token.p50[-2] == pytest.approx(0.1, rel=0.12)
    assert told.first_token.p50[-1] is None
    assert told.latency.p95[-1] == pytest.approx(2.0, rel=0.12)
    assert history.series().roles[Role.EMBED].prompt_tokens[-1] == 3


def test_percentiles_of_a_bucket_and_of_the_whole_time(history, clock):
    for duration in [0.1] * 98 + [1.0, 10.0]:
        history.request_ended(record(duration_s=duration))
    clock.now += BUCKET_S
    history.request_ended(record(duration_s=100.0))
    told = generate(history).latency
    assert told.p50[-2] == pytest.approx(0.1, rel=0.12)
    assert told.p99[-2] == pytest.approx(1.0, rel=0.12)
    assert told.p99[-1] == pytest.approx(100.0, rel=0.12)
    assert told.whole.p99 == pytest.approx(10.0, rel=0.12)


@pytest.mark.parametrize("fields", [{"status": 503}, {"status": 400}, {"error_type": "engine_failed"}])
def test_what_fails_is_an_error_and_has_no_latency(history, fields):
    history.request_ended(record(**fields))
    told = generate(history)
    assert (told.requests[-1], told.errors[-1], told.latency.p50[-1]) == (1, 1, None)


def test_a_client_that_left_is_no_error(history):
    history.request_ended(record(status=499, error_type="cancelled", client_gone=True, completion_tokens=3))
    told = generate(history)
    assert (told.requests[-1], told.errors[-1], told.latency.p50[-1]) == (1, 0, None)
    assert told.completion_tokens[-1] == 3


def test_requests_that_ask_no_engine_have_a_series_of_their_own(history):
    history.request_ended(record(role=None, model=None, route=UNMATCHED, status=404))
    assert history.series().roles[OTHER].errors[-1] == 1
    assert generate(history).requests[-1] == 0


@pytest.mark.parametrize("route", ["/", "/page/{name:str}", "/status", "/health", "/health/ready", "/metrics"])
def test_those_who_look_are_not_seen(history, route):
    history.request_ended(record(role=None, method="GET", route=route))
    assert history.last_requests() == []
    assert history.series().roles[OTHER].requests[-1] == 0


@pytest.mark.parametrize(
    "route", [CHAT, "/v1/models", "/tokenize", UNMATCHED, "/admin/engines/{role:str}/restart"]
)
def test_all_others_are_seen(history, route):
    history.request_ended(record(route=route))
    assert [request.route for request in history.last_requests()] == [route]


def test_the_last_requests_come_newest_first_and_are_bounded(history):
    for number in range(LAST_REQUESTS + 5):
        history.request_ended(record(request_id=f"req_{number}"))
    ids = [request.request_id for request in history.last_requests()]
    assert ids == [f"req_{number}" for number in reversed(range(5, LAST_REQUESTS + 5))]


def test_what_is_old_leaves_the_series_and_the_memory(history, clock):
    history.request_ended(record())
    clock.now += (BUCKETS - 1) * BUCKET_S
    assert generate(history).requests == [1] + [0] * (BUCKETS - 1)
    clock.now += BUCKET_S
    assert sum(generate(history).requests) == 0
    history.request_ended(record())
    assert len(history._buckets) == 1


def test_memory_is_bounded_however_long_it_goes_on(history, clock):
    for _ in range(3 * BUCKETS):
        clock.now += BUCKET_S
        history.request_ended(record())
    assert len(history._buckets) == BUCKETS
    assert generate(history).requests == [1] * BUCKETS


def test_a_clock_that_is_set_back_leaves_nothing_behind(history, clock):
    history.request_ended(record())
    clock.now -= 10 * BUCKET_S * BUCKETS
    history.request_ended(record())
    assert len(history._buckets) == 1
    assert generate(history).requests[-1] == 1


def test_a_last_request_tells_all_but_whose_key_it_was(history):
    history.request_ended(record(key="alice", trace_id="ab" * 16, queue_s=0.5))
    (told,) = history.last_requests()
    assert set(RequestRecord.__struct_fields__) - set(LastRequest.__struct_fields__) == {"key"}
    assert (told.trace_id, told.queue_s, told.duration_s) == ("ab" * 16, 0.5, 2.0)
    assert b"alice" not in encode(told)
    assert msgspec.json.decode(encode(told), type=LastRequest) == told


def test_a_bucket_that_was_read_tells_of_what_came_later_too(history):
    history.request_ended(record(duration_s=0.1))
    assert generate(history).latency.p99[-1] == pytest.approx(0.1, rel=0.12)
    history.request_ended(record(duration_s=10.0))
    assert generate(history).latency.p99[-1] == pytest.approx(10.0, rel=0.12)


def test_closed_buckets_are_put_together_once(history, clock, monkeypatch):
    for _ in range(20):
        history.request_ended(record(duration_s=0.1))
        clock.now += BUCKET_S
    assert generate(history).latency.whole.p99 == pytest.approx(0.1, rel=0.12)
    merged = []
    merge = Histogram.merge
    monkeypatch.setattr(Histogram, "merge", lambda self, other: (merged.append(other), merge(self, other)))
    history.request_ended(record(duration_s=10.0))
    told = generate(history).latency.whole
    assert (told.p50, told.p99) == (pytest.approx(0.1, rel=0.12), pytest.approx(10.0, rel=0.12))
    # For each role and for other requests: two kinds of durations, each of the closed buckets and of the open one.
    assert len(merged) == 3 * 2 * 2


def test_the_whole_time_forgets_what_is_old(history, clock):
    history.request_ended(record(duration_s=10.0))
    clock.now += BUCKET_S
    history.request_ended(record(duration_s=0.1))
    assert generate(history).latency.whole.p99 == pytest.approx(10.0, rel=0.12)
    clock.now += (BUCKETS - 1) * BUCKET_S
    assert generate(history).latency.whole.p99 == pytest.approx(0.1, rel=0.12)
    clock.now += BUCKET_S
    assert generate(history).latency.whole.p99 is None
