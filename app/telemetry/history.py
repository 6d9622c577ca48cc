"""What has happened in the last minutes: the last requests, and series for charts. Never anything of a content.

All of it is bounded: so many requests, so many buckets of time, and so many cells for the durations of each.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from app.telemetry.histogram import Histogram
from app.telemetry.record import Listener, RequestRecord
from domain.roles import Role

BUCKET_S = 5
BUCKETS = 120
LAST_REQUESTS = 50
OTHER = "other"
"""The series of requests that ask no engine: what was refused before, unknown paths, lists of models."""
KINDS = (*Role, OTHER)


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; None if nothing ended."""

    p50: float | None
    p95: float | None
    p99: float | None


class PercentileSeries(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of durations in seconds for each bucket, None where nothing ended, and for the whole time.

    Estimates: at most 12 % off (`app.telemetry.histogram`).
    """

    p50: list[float | None]
    p95: list[float | None]
    p99: list[float | None]
    whole: Percentiles


class RoleSeries(msgspec.Struct, frozen=True, kw_only=True):
    """One number for each bucket, the oldest first. A request counts when it ends."""

    requests: list[int]
    errors: list[int]
    """Of the requests: those that failed, refusals included, and not those whose client left."""
    prompt_tokens: list[int]
    completion_tokens: list[int]
    latency: PercentileSeries
    """Of requests that were answered well, until the last byte."""
    first_token: PercentileSeries
    """Until the first token, of those that had one."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The last minutes in buckets of time, one series for each role and one for requests that ask no engine."""

    bucket_s: int
    begin: int
    """Unix time at which the first bucket begins. The last one is under way."""
    roles: dict[str, RoleSeries]


class LastRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request that is over, without anything of its content or its key. Durations are seconds."""

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
    """Durations of one bucket. Their percentiles are kept until there is one more: of old buckets for good."""

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


class _Whole:
    """Durations of all buckets together. Those that are closed are put together once, until there is one more."""

    def __init__(self) -> None:
        self._open_bucket: int | None = None
        self._closed = Histogram()

    def percentiles(self, durations: list[_Durations], open_bucket: int) -> Percentiles:
        """Of the whole time.

        Args:
            durations: of each bucket, the oldest first; the last one is open.
            open_bucket: which one that is.
        """
        if open_bucket != self._open_bucket:
            self._closed = _merged(each.histogram for each in durations[:-1])
            self._open_bucket = open_bucket
        return _percentiles(_merged([self._closed, durations[-1].histogram]))


class _Counts:
    """What ended in one bucket of time, of one kind."""

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
        else:
            self.latency.add(record.duration_s)


class History(Listener):
    """Keeps the last requests and the last minutes."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        """Make it, empty.

        Args:
            clock: tells Unix time.
        """
        self._clock = clock
        self._requests: deque[RequestRecord] = deque(maxlen=LAST_REQUESTS)
        self._buckets: dict[int, dict[str, _Counts]] = {}
        self._latency = {kind: _Whole() for kind in KINDS}
        self._first_token = {kind: _Whole() for kind in KINDS}

    def request_ended(self, record: RequestRecord) -> None:
        """Note a request that is over."""
        if record.is_probe:
            return
        self._requests.appendleft(record)
        now = self._bucket_now()
        if now not in self._buckets:
            # Only here does it grow. The clock may have been set back: what lies ahead goes as well.
            kept = range(now - BUCKETS + 1, now + 1)
            self._buckets = {bucket: counts for bucket, counts in self._buckets.items() if bucket in kept}
        counts = self._buckets.setdefault(now, {})
        counts.setdefault(record.role or OTHER, _Counts()).add(record)

    def last_requests(self) -> list[LastRequest]:
        """Those that ended last, the newest first."""
        return [_last(record) for record in self._requests]

    def series(self) -> Series:
        """The last minutes, up to now."""
        now = self._bucket_now()
        buckets = range(now - BUCKETS + 1, now + 1)
        roles = {kind: self._role_series(kind, buckets) for kind in KINDS}
        return Series(bucket_s=BUCKET_S, begin=buckets[0] * BUCKET_S, roles=roles)

    def _role_series(self, kind: str, buckets: range) -> RoleSeries:
        nothing = _Counts()
        counts = [self._buckets.get(bucket, {}).get(kind, nothing) for bucket in buckets]
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


def _last(record: RequestRecord) -> LastRequest:
    return LastRequest(**{name: getattr(record, name) for name in LastRequest.__struct_fields__})


def _percentile_series(durations: list[_Durations], whole: _Whole, open_bucket: int) -> PercentileSeries:
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
