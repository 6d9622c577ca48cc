"""Metrics: names and values, limits of labels, and switching them off."""

import asyncio
import math
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from app.http.requests import METRICS
from app.telemetry import conventions, instruments
from app.telemetry.metrics import MAX_LABEL_VALUES, Metrics
from app.telemetry.record import UNMATCHED, OperationRecord, RequestRecord
from app.telemetry.state import Retries, ServiceState
from domain.errors import BackendFailedError
from domain.health import (
    BackendHealth,
    BackendState,
    BreakerState,
    CacheStats,
    GpuMemory,
    MemberHealth,
    ServiceHealth,
    service_health,
)
from domain.load import Bounds, ClassLoad, Load
from domain.observation import Phase
from domain.roles import Role
from domain.service_class import ServiceClass
from domain.statistics import Family, Sample
from tests.unit.serving import CHAT, COMPLETE, EMBED, Api, error_of, serving
from tests.unit.waiting import until

MODEL = "fake-write"
OPERATION = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "vllm",
    "gen_ai_request_model": MODEL,
}
BOUNDS = Bounds(max_running=1, max_waiting=2, max_running_tokens=3, max_waiting_tokens=4)


def fresh(**more) -> Metrics:
    return Metrics(models=lambda: {MODEL, "fake-embed"}, **more)


def operation(**more) -> OperationRecord:
    values = {
        "name": "chat",
        "role": Role.GENERATE,
        "model": MODEL,
        "is_stream": True,
        "duration_s": 2.0,
        "first_token_s": 0.5,
        "prompt_tokens": 10,
        "completion_tokens": 4,
    }
    return OperationRecord(**values | more)


def request(**more) -> RequestRecord:
    values = {"request_id": "1", "began": 0.0, "method": "POST", "route": "/v1/embeddings", "status": 200}
    return RequestRecord(**values | {"duration_s": 0.05} | more)


def values(metrics: Metrics, sample: str) -> dict[tuple[tuple[str, str], ...], float]:
    """The values of a sample by its labels, without empty labels."""
    return {
        tuple(sorted((name, value) for name, value in each.labels.items() if value)): each.value
        for family in metrics.collect()
        for each in family.samples
        if each.name == sample
    }


def value(metrics: Metrics, sample: str, **labels: str) -> float:
    return values(metrics, sample)[tuple(sorted(labels.items()))]


def health(**more) -> ServiceHealth:
    lines = ClassLoad(running=1, waiting=7, running_tokens=20, waiting_tokens=70)
    load = Load(running=1, waiting=0, running_tokens=20, waiting_tokens=0, bounds=BOUNDS, classes={"batch": lines})
    member = MemberHealth(
        address="host:1",
        state=BackendState.READY,
        breaker=BreakerState.HALF_OPEN,
        outstanding=3,
        ejections=2,
        last_error=None,
    )
    backends = {
        Role.EMBED: BackendHealth(
            state=BackendState.READY, reason=None, model="e", since="", queue=load, members=[member]
        ),
        Role.GENERATE: BackendHealth(
            state=BackendState.HUNG, reason="?", model="g", since="", queue=load, restarts=2
        ),
    }
    return service_health(backends, tasks=1, **more)


def test_a_call_is_measured_by_the_conventions():
    metrics = fresh()
    metrics.operation_ended(operation())
    for name, total in {
        "gen_ai_server_request_duration_seconds": 2.0,
        "gen_ai_server_time_to_first_token_seconds": 0.5,
        "gen_ai_server_time_per_output_token_seconds": 0.5,
    }.items():
        assert value(metrics, f"{name}_count", **OPERATION) == 1
        assert value(metrics, f"{name}_sum", **OPERATION) == total
    tokens = "gen_ai_client_token_usage_sum"
    assert value(metrics, tokens, **OPERATION, gen_ai_token_type="input") == 10
    assert value(metrics, tokens, **OPERATION, gen_ai_token_type="output") == 4


def test_lines_of_batches_have_tokens_but_no_durations():
    """They may have waited for hours."""
    metrics = fresh()
    metrics.operation_ended(operation(is_line=True, queue_s=9_000.0, duration_s=9_002.0))
    metrics.request_ended(request(service_class=ServiceClass.BATCH, duration_s=9_002.0))
    names = {each.name for family in metrics.collect() for each in family.samples}
    assert not {
        name for name in names if name.endswith(("duration_seconds_sum", "wait_seconds_sum", "token_seconds_sum"))
    }
    assert value(metrics, "gen_ai_client_token_usage_sum", **OPERATION, gen_ai_token_type="output") == 4


@pytest.mark.parametrize(
    ("tokens", "choices", "expected"), [(64, 4, 1.5 / 15), (4, 4, None), (6, 4, 1.5 / 0.5), (1, 1, None)]
)
def test_parallel_choices_take_as_long_as_one(tokens, choices, expected):
    metrics = fresh()
    metrics.operation_ended(operation(completion_tokens=tokens, choices=choices))
    found = values(metrics, "gen_ai_server_time_per_output_token_seconds_sum")
    assert list(found.values()) == ([] if expected is None else [pytest.approx(expected)])


@pytest.mark.parametrize(
    "instrument",
    [
        instruments.REQUEST_DURATION,
        instruments.TIME_TO_FIRST_TOKEN,
        instruments.TIME_PER_OUTPUT_TOKEN,
        instruments.TOKEN_USAGE,
        instruments.HTTP_DURATION,
    ],
    ids=lambda instrument: instrument.name,
)
def test_buckets_are_those_of_the_conventions(instrument):
    buckets = {
        "gen_ai.server.request.duration": [0.01 * 2**power for power in range(14)],
        "gen_ai.server.time_to_first_token": [
            0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10
        ],
        "gen_ai.server.time_per_output_token": [
            0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5
        ],
        "gen_ai.client.token.usage": [4**power for power in range(14)],
        "http.server.request.duration": [
            0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10
        ],
    }  # fmt: skip
    metrics = fresh()
    metrics.operation_ended(operation())
    metrics.request_ended(request())
    shown = {
        float(sample.labels["le"])
        for family in metrics.collect()
        for sample in family.samples
        if sample.name == f"{instrument.family}_bucket"
    }
    assert sorted(shown) == pytest.approx([*buckets[instrument.name], math.inf])


def test_without_streaming_there_is_no_first_token():
    metrics = fresh()
    metrics.operation_ended(operation(is_stream=False))
    metrics.operation_ended(operation(error_type="server_error"))
    assert not values(metrics, "gen_ai_server_time_to_first_token_seconds_count")
    assert not values(metrics, "gen_ai_server_time_per_output_token_seconds_count")


def test_a_failure_has_its_type():
    metrics = fresh()
    metrics.operation_ended(operation(error_type="overloaded", prompt_tokens=0, completion_tokens=0))
    metrics.request_ended(request(status=429, error_type="overloaded"))
    failed = "gen_ai_server_request_duration_seconds_count"
    assert value(metrics, failed, **OPERATION, error_type="overloaded") == 1
    ((labels, count),) = values(metrics, "http_server_request_duration_seconds_count").items()
    assert count == 1
    assert dict(labels) == {
        "http_request_method": "POST",
        "http_route": "/v1/embeddings",
        "http_response_status_code": "429",
        "url_scheme": "http",
        "error_type": "overloaded",
    }
    assert not values(metrics, "gen_ai_client_token_usage_count")
    # A rejected call does not count as one that waited for 0 s.
    assert not values(metrics, "memoria_queue_wait_seconds_count")


def test_waits_and_batch_sizes_are_counted():
    metrics = fresh()
    embed = operation(role=Role.EMBED, queue_s=0.2)
    metrics.operation_ended(embed)
    metrics.operation_ended(operation())
    metrics.waited(embed, Phase.QUEUE, 0.2)
    metrics.waited(embed, Phase.JOIN, 0.03)
    metrics.batched(embed, 5)
    assert value(metrics, "memoria_queue_wait_seconds_sum", role="embed") == pytest.approx(0.2)
    assert value(metrics, "memoria_queue_wait_seconds_count", role="generate") == 1
    assert value(metrics, "memoria_queue_wait_seconds_sum", role="generate") == 0
    assert value(metrics, "memoria_join_wait_seconds_sum", role="embed") == pytest.approx(0.03)
    assert value(metrics, "memoria_join_size_bucket", role="embed", le="4.0") == 0
    assert value(metrics, "memoria_join_size_bucket", role="embed", le="8.0") == 1


def test_client_input_creates_no_series():
    metrics = fresh()
    for number in range(1000):
        text = f"made-up-{number}"
        metrics.operation_ended(operation(model=text, name=text, error_type=text))
        metrics.request_ended(request(method=text, route=UNMATCHED, error_type=text, status=600 + number))
    durations = values(metrics, "gen_ai_server_request_duration_seconds_count")
    assert {dict(labels)["gen_ai_request_model"] for labels in durations} == {conventions.OTHER}
    assert len(durations) <= MAX_LABEL_VALUES + 1
    requests = values(metrics, "http_server_request_duration_seconds_count")
    assert len(requests) <= MAX_LABEL_VALUES + 1
    assert {dict(labels)["http_route"] for labels in requests} == {UNMATCHED}
    assert {dict(labels)["http_request_method"] for labels in requests} == {conventions.OTHER}
    assert sum(requests.values()) == sum(durations.values()) == 1000


def test_a_model_that_becomes_known_later_has_its_name():
    names: set[str] = set()
    metrics = Metrics(models=lambda: names)
    metrics.operation_ended(operation())
    names.add(MODEL)
    metrics.operation_ended(operation())
    counts = values(metrics, "gen_ai_server_request_duration_seconds_count")
    assert sorted(dict(labels)["gen_ai_request_model"] for labels in counts) == [conventions.OTHER, MODEL]


def test_the_state_is_read_on_demand():
    metrics = fresh()
    now = health(
        embedding_cache=CacheStats(hits=5, shared=1, misses=7, entries=3, bytes=100, max_bytes=1000),
        gpu_memory=GpuMemory(used_gib=1.0, total_gib=2.0),
    )
    ServiceState(metrics, lambda: now, retries={Role.EMBED: lambda: Retries(4, 1)})
    metrics.refresh()
    metrics.refresh()
    for sample, expected in {
        ("memoria_service_ready",): 0,
        ("memoria_engine_state", "role=embed", "state=ready"): 1,
        ("memoria_engine_state", "role=embed", "state=hung"): 0,
        ("memoria_engine_state", "role=generate", "state=hung"): 1,
        ("memoria_engine_restarts_total", "role=embed"): 0,
        ("memoria_engine_restarts_total", "role=generate"): 2,
        ("memoria_requests_running", "role=embed"): 1,
        ("memoria_requests_waiting", "role=embed"): 0,
        ("memoria_class_running", "class=batch", "role=embed"): 1,
        ("memoria_class_waiting", "class=batch", "role=embed"): 7,
        ("memoria_requests_running_limit", "role=embed"): 1,
        ("memoria_requests_waiting_limit", "role=embed"): 2,
        ("memoria_tokens_running", "role=embed"): 20,
        ("memoria_tokens_waiting", "role=embed"): 0,
        ("memoria_tokens_running_limit", "role=embed"): 3,
        ("memoria_tokens_waiting_limit", "role=embed"): 4,
        ("memoria_server_state", "role=embed", "server=host:1", "state=ready"): 1,
        ("memoria_server_breaker", "role=embed", "server=host:1", "state=half-open"): 1,
        ("memoria_server_breaker", "role=embed", "server=host:1", "state=open"): 0,
        ("memoria_server_outstanding", "role=embed", "server=host:1"): 3,
        ("memoria_server_ejections_total", "role=embed", "server=host:1"): 2,
        ("memoria_embedding_cache_inputs_total", "result=hit"): 5,
        ("memoria_embedding_cache_inputs_total", "result=shared"): 1,
        ("memoria_embedding_cache_inputs_total", "result=miss"): 7,
        ("memoria_embedding_cache_entries",): 3,
        ("memoria_embedding_cache_size_bytes",): 100,
        ("memoria_embedding_cache_limit_bytes",): 1000,
        ("memoria_retries_total", "role=embed"): 4,
        ("memoria_retries_given_up_total", "role=embed"): 1,
        ("memoria_gpu_memory_used_bytes",): 2**30,
        ("memoria_gpu_memory_limit_bytes",): 2**31,
    }.items():
        name, *labels = sample
        assert value(metrics, name, **dict(label.split("=") for label in labels)) == expected, sample


def test_absent_state_is_not_shown_as_zero():
    metrics = fresh()
    ServiceState(metrics, health, retries={})
    metrics.refresh()
    names = {family.name for family in metrics.collect()}
    assert "memoria_engine_state" in names
    assert not {name for name in names if "gpu" in name or "cache" in name or "retries" in name}


def test_a_counter_that_begins_again_does_not_go_back():
    metrics = fresh()
    for total in (3, 5, 1):
        metrics.count_to(instruments.ENGINE_RESTARTS, total, "embed")
    assert value(metrics, "memoria_engine_restarts_total", role="embed") == 6


def test_names_follow_opentelemetrys_rules():
    by_name = {instrument.name: instrument.family for instrument in instruments.INSTRUMENTS}
    assert len(set(by_name.values())) == len(by_name)
    assert by_name["http.server.request.duration"] == "http_server_request_duration_seconds"
    assert by_name["gen_ai.client.token.usage"] == "gen_ai_client_token_usage"
    assert by_name["memoria.gpu.memory.used"] == "memoria_gpu_memory_used_bytes"
    for name in by_name:
        assert name.startswith(("memoria.", "gen_ai.", "http."))


def test_the_same_family_of_two_engines_is_shown_once():
    metrics = fresh()
    for model in ("a", "b"):
        sample = Sample("_total", {"model_name": model}, 1.0)
        family = Family(name="vllm:prompt_tokens", kind="counter", about="Tokens.", samples=[sample])
        metrics.engines.append(lambda family=family: [family])
    (family,) = [family for family in metrics.collect() if family.name.startswith("vllm:")]
    assert [sample.labels for sample in family.samples] == [{"model_name": "a"}, {"model_name": "b"}]


def counting(settings: dict[str, str] | None = None) -> tuple[Api, Metrics | None]:
    api = Api(settings={"METRICS": "true"} | (settings or {}))
    return api, api.app.state[METRICS]


async def test_the_page_has_the_requested_format():
    api, metrics = counting()
    async with serving(api):
        assert metrics is not None
        metrics.operation_ended(operation())
        plain = await api.http.get("/metrics")
        assert plain.status_code == 200
        assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = {family.name: family for family in parse(plain.text)}
        assert families["gen_ai_server_request_duration_seconds"].type == "histogram"
        assert families["memoria_engine_restarts"].type == "counter"
        assert "memoria_process_memory_bytes" in families
        accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        open_ = await api.http.get("/metrics", headers=accept)
        assert open_.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert open_.text.endswith("# EOF\n")
        assert {family.name for family in parse_openmetrics(open_.text)} >= set(families)


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_the_page_is_encoded_by_family_without_blocking_the_loop(monkeypatch, accept):
    metrics = fresh()
    metrics.operation_ended(operation())
    sample = Sample("_total", {}, 1.0)
    family = Family(name="vllm:tokens", kind="counter", about="Tokens.", samples=[sample])
    metrics.engines.append(lambda: [family])
    gave_way: list[float] = []
    monkeypatch.setattr("app.telemetry.metrics.time.sleep", gave_way.append)
    page, _ = await metrics.text(accept)
    count = len(metrics.collect())
    assert count > 3
    # First while they are collected, then while they are encoded.
    assert gave_way[: 2 * count] == [0] * 2 * count
    encode, _ = choose_encoder(accept)
    registry = CollectorRegistry()
    registry.collect = metrics.collect
    assert page == encode(registry)


@pytest.mark.parametrize(
    "accept",
    [f"application/openmetrics-text; version={odd}" for odd in ("abc", "1.x", "2.0.x", "", '"1.0.0"', "1..0")]
    + ["text/plain; version=1.x"],
)
async def test_an_invalid_version_gets_the_default_format(accept):
    api, _metrics = counting()
    async with serving(api):
        answer = await api.http.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "memoria_service_ready" in answer.text


async def test_sharing_the_state_recovers_from_a_failure(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("app.telemetry.metrics.REFRESH_S", 0.001)
    (tmp_path / "began").write_text("1")
    metrics = fresh(folder=tmp_path)
    requested = 0

    def source() -> None:
        nonlocal requested
        requested += 1
        if requested < 4:
            raise RuntimeError("not now")

    metrics.sources.append(source)
    metrics.start()
    async with asyncio.timeout(10):
        while requested < 6:
            await asyncio.sleep(0.001)
    metrics.stop()
    # Logged, but not each time.
    assert caplog.text.count("RuntimeError: not now") == 1


async def test_the_service_exposes_its_own_metrics():
    api, _metrics = counting()
    async with serving(api):
        text = (await api.http.get("/metrics")).text
        shown = {sample.name for family in parse(text) for sample in family.samples}
        assert {"memoria_build_info", "memoria_service_ready", "memoria_requests_running"} <= shown
        (memory,) = [family for family in parse(text) if family.name == "memoria_process_memory_bytes"]
        assert [sample.labels for sample in memory.samples] == [{"process": "service"}]
        assert memory.samples[0].value > 2**20


async def test_requests_are_counted_from_end_to_end():
    api, metrics = counting({"REQUEST_LOG": "false"})
    assert metrics is not None
    async with serving(api):
        await until(lambda: api.is_ready)
        assert (await api.chat(stream=True)).status_code == 200
        assert (await api.embed(["a", "b"])).status_code == 200
        api.writer.fail_next = BackendFailedError("It broke.")
        assert (await api.complete()).status_code == 500
        for number in range(100):
            assert (await api.http.get(f"/made-up/{number}")).status_code == 404
            assert (await api.embed(model=f"made-up-{number}")).status_code == 404
    durations = values(metrics, "gen_ai_server_request_duration_seconds_count")
    assert {(dict(labels)["gen_ai_operation_name"], dict(labels).get("error_type")) for labels in durations} == {
        ("chat", None),
        ("embeddings", None),
        ("text_completion", "server_error"),
    }
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_count", **OPERATION) == 1
    requests = values(metrics, "http_server_request_duration_seconds_count")
    assert {
        (dict(labels)["http_route"], dict(labels)["http_response_status_code"]): count
        for labels, count in requests.items()
    } == {
        (CHAT, "200"): 1,
        (EMBED, "200"): 1,
        (EMBED, "404"): 100,
        (COMPLETE, "500"): 1,
        (UNMATCHED, "404"): 100,
    }


async def test_metrics_require_a_key():
    api, _metrics = counting({"API_KEYS": "sk-first-key"})
    async with serving(api):
        refused = await api.http.get("/metrics")
        assert refused.status_code == 401
        shown = await api.http.get("/metrics", headers={"authorization": "Bearer sk-first-key"})
        assert shown.status_code == 200


async def test_metrics_can_be_switched_off():
    api, metrics = counting({"METRICS": "false"})
    async with serving(api):
        assert metrics is None
        answer = await api.http.get("/metrics")
        assert answer.status_code == 404
        assert "Unknown request URL" in error_of(answer)["message"]


async def test_metrics_that_are_only_exported_have_no_page():
    sent = {"METRICS": "false", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"}
    api = Api(settings=sent)
    assert api.app.state[METRICS] is not None
    assert (await api.http.get("/metrics")).status_code == 404


def test_without_metrics_the_library_is_not_loaded():
    script = (
        "import sys; from app import cli; from app.http import server; from app.http.asgi import create_app\n"
        "from app.bootstrap import build_app\n"
        "print([name for name in ('prometheus_client', 'opentelemetry') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
