"""Keeps recent history for the status page: the last requests and time series, without any request content.

Memory is bounded by the number of requests, of time buckets, and of histogram bins per bucket.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from app.telemetry.histogram import Histogram
from app.telemetry.record import TEMPORARY, Listener, RequestRecord
from domain.roles import Role

BUCKET_S = 5
BUCKETS = 120
LAST_REQUESTS = 50
OTHER = "other"
"""The series of requests that reach no engine: rejected ones, unknown paths, lists of models."""
KINDS = (*Role, OTHER)


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in seconds; None if no request ended."""

    p50: float | None
    p95: float | None
    p99: float | None


class PercentileSeries(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of durations in seconds, for each bucket (None if no request ended) and for all together.

    They are estimates with an error of at most 12 % (`app.telemetry.histogram`).
    """

    p50: list[float | None]
    p95: list[float | None]
    p99: list[float | None]
    whole: Percentiles


class RoleSeries(msgspec.Struct, frozen=True, kw_only=True):
    """One number per bucket, oldest first. A request counts in the bucket in which it ends."""

    requests: list[int]
    errors: list[int]
    """Requests that failed, including rejected ones, but not those whose client disconnected."""
    prompt_tokens: list[int]
    completion_tokens: list[int]
    latency: PercentileSeries
    """Of successful requests without lines of batches, until the last byte."""
    first_token: PercentileSeries
    """Of requests with a first token, until that token."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The last minutes in time buckets, one series per role and one for requests that reach no engine."""

    bucket_s: int
    begin: int
    """Unix time at which the first bucket begins. The last bucket is still open."""
    roles: dict[str, RoleSeries]


class LastRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One finished request, without its content or key. Durations are in seconds."""

    began: float
    """Unix time."""
    request_id: str
    trace_id: str | None
    method: str
    route: str
    status: int
    error_type: str | None
    client_gone: bool
    role: Role | None
    operation: str | None
    model: str | None
    is_stream: bool
    duration_s: float
    queue_s: float
    join_s: float
    first_token_s: float | None
    prompt_tokens: int
    completion_tokens: int


class _Durations:
    """Durations of one bucket. The percentiles are cached until another duration is added."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._percentiles: Percentiles | None = None

    def add(self, seconds: float) -> None:
        self.histogram.add(seconds)
        self._percentiles = None

    def percentiles(self) -> Percentiles:
        if self._percentiles is None:
            self._percentiles = _percentiles(self.histogram)
        return self._percentiles


class _OverallDurations:
    """Durations of all buckets together. The closed buckets are merged once per new bucket."""

    def __init__(self) -> None:
        self._open_bucket: int | None = None
        self._closed = Histogram()

    def percentiles(self, durations: list[_Durations], open_bucket: int) -> Percentiles:
        """Percentiles over all buckets.

        Args:
            durations: of each bucket, oldest first; the last bucket is open.
            open_bucket: number of the open bucket.
        """
        if open_bucket != self._open_bucket:
            self._closed = _merged(each.histogram for each in durations[:-1])
            self._open_bucket = open_bucket
        return _percentiles(_merged([self._closed, durations[-1].histogram]))


class _BucketCounts:
    """Counts of the requests of one series that ended in one time bucket."""

    def __init__(self) -> None:
        self.requests = self.errors = self.prompt_tokens = self.completion_tokens = 0
        self.latency, self.first_token = _Durations(), _Durations()

    def add(self, record: RequestRecord) -> None:
        self.requests += 1
        self.prompt_tokens += record.prompt_tokens
        self.completion_tokens += record.completion_tokens
        if record.first_token_s is not None:
            self.first_token.add(record.first_token_s)
        if record.client_gone:
            return
        if record.error_type is not None or record.status >= 400:
            self.errors += 1
        elif not record.is_line:
            self.latency.add(record.duration_s)


class History(Listener):
    """Keeps the last requests, without lines of batches, and counts of the last minutes, with them."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """Create an empty history.

        Args:
            clock: returns the Unix time.
        """
        self._clock = clock
        self._requests: deque[RequestRecord] = deque(maxlen=LAST_REQUESTS)
        self._buckets: dict[int, dict[str, _BucketCounts]] = {}
        self._latency = {kind: _OverallDurations() for kind in KINDS}
        self._first_token = {kind: _OverallDurations() for kind in KINDS}

    def request_ended(self, record: RequestRecord) -> None:
        """Record a finished request."""
        if record.is_probe or (record.is_line and record.status in TEMPORARY):
            # Such a line is tried again, and counts when it is answered.
            return
        if not record.is_line:
            # One batch would leave no room for the requests of clients; it is shown as a whole.
            self._requests.appendleft(record)
        now = self._bucket_now()
        if now not in self._buckets:
            # The only place where it grows. Future buckets are dropped too: the clock may have been set back.
            kept = range(now - BUCKETS + 1, now + 1)
            self._buckets = {bucket: counts for bucket, counts in self._buckets.items() if bucket in kept}
        counts = self._buckets.setdefault(now, {})
        counts.setdefault(record.role or OTHER, _BucketCounts()).add(record)

    def last_requests(self) -> list[LastRequest]:
        """The requests that ended last, newest first."""
        return [_to_last_request(record) for record in self._requests]

    def series(self) -> Series:
        """The time series of the last minutes, up to now."""
        now = self._bucket_now()
        buckets = range(now - BUCKETS + 1, now + 1)
        roles = {kind: self._role_series(kind, buckets) for kind in KINDS}
        return Series(bucket_s=BUCKET_S, begin=buckets[0] * BUCKET_S, roles=roles)

    def _role_series(self, kind: str, buckets: range) -> RoleSeries:
        empty = _BucketCounts()
        counts = [self._buckets.get(bucket, {}).get(kind, empty) for bucket in buckets]
        now = buckets[-1]
        return RoleSeries(
            requests=[each.requests for each in counts],
            errors=[each.errors for each in counts],
            prompt_tokens=[each.prompt_tokens for each in counts],
            completion_tokens=[each.completion_tokens for each in counts],
            latency=_percentile_series([each.latency for each in counts], self._latency[kind], now),
            first_token=_percentile_series([each.first_token for each in counts], self._first_token[kind], now),
        )

    def _bucket_now(self) -> int:
        return int(self._clock() // BUCKET_S)


def _to_last_request(record: RequestRecord) -> LastRequest:
    return LastRequest(**{name: getattr(record, name) for name in LastRequest.__struct_fields__})


def _percentile_series(
    durations: list[_Durations], whole: _OverallDurations, open_bucket: int
) -> PercentileSeries:
    each = [bucket.percentiles() for bucket in durations]
    return PercentileSeries(
        p50=[percentiles.p50 for percentiles in each],
        p95=[percentiles.p95 for percentiles in each],
        p99=[percentiles.p99 for percentiles in each],
        whole=whole.percentiles(durations, open_bucket),
    )


def _merged(histograms: Iterable[Histogram]) -> Histogram:
    merged = Histogram()
    for histogram in histograms:
        merged.merge(histogram)
    return merged


def _percentiles(histogram: Histogram) -> Percentiles:
    return Percentiles(p50=histogram.percentile(50), p95=histogram.percentile(95), p99=histogram.percentile(99))
