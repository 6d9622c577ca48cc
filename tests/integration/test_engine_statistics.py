"""vLLM's metrics of both engines on one page: they match the requests."""

import json
from collections.abc import Generator, Iterable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from vllm.v1.engine import FinishReason
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.prometheus import unregister_vllm_metrics
from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats, SchedulerStats

from adapters.vllm.inprocess.statistics import EngineStatistics
from tests.processes import ROOT, ServiceProcess, tiny_environment
from tests.promql import read

pytestmark = pytest.mark.integration

PROMPT = [5, 6, 7, 8, 9]


@pytest.fixture(scope="module")
def url(tiny_models: dict[str, Path]) -> Generator[str, None, None]:
    service = ServiceProcess(tiny_environment(tiny_models) | {"ENGINE_METRICS": "true"})
    yield service.wait_until_ready()
    service.end()


def page(url: str) -> dict[str, Metric]:
    answer = httpx.get(f"{url}/metrics", trust_env=False)
    assert answer.status_code == 200
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def number(families: dict[str, Metric], sample: str, **labels: str) -> float:
    """The single sample with these labels."""
    (found,) = [
        each.value
        for family in families.values()
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    ]
    return found


def complete(url: str, tokens: int) -> None:
    body = {"model": "tiny-gen", "prompt": PROMPT, "max_tokens": tokens, "min_tokens": tokens, "temperature": 0}
    httpx.post(f"{url}/v1/completions", json=body, trust_env=False).raise_for_status()


def embed(url: str, count: int) -> None:
    body = {"model": "tiny-embed", "input": [PROMPT] * count}
    httpx.post(f"{url}/v1/embeddings", json=body, trust_env=False).raise_for_status()


def test_both_engines_have_metrics_on_one_page(url: str) -> None:
    complete(url, 2)
    embed(url, 1)
    families = page(url)
    ours = {name: family for name, family in families.items() if name.startswith("vllm:")}
    assert len(ours) > 20
    for name, family in ours.items():
        series = [(sample.name, *sorted(sample.labels.items())) for sample in family.samples]
        assert len(set(series)) == len(series), f"{name} has a series twice"
        assert all("model_name" in sample.labels for sample in family.samples), name
    models = {sample.labels["model_name"] for sample in ours["vllm:num_requests_running"].samples}
    assert models == {"tiny-embed", "tiny-gen"}
    assert {family.type for family in ours.values()} == {"counter", "gauge", "histogram"}


def test_metrics_in_the_dashboard_exist(url: str) -> None:
    complete(url, 2)
    samples = {sample.name for family in page(url).values() for sample in family.samples}
    dashboard = json.loads((ROOT / "deploy/observability/grafana/dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    wanted = {name for query in queries for name, _ in read(query) if name.startswith("vllm:")}
    assert wanted
    assert not wanted - samples


def test_metrics_match_the_requests(url: str) -> None:
    before = page(url)
    complete(url, 7)
    complete(url, 7)
    embed(url, 3)
    after = page(url)

    def increase(sample: str, model: str, **labels: str) -> float:
        of = {"model_name": model} | labels
        return number(after, sample, **of) - number(before, sample, **of)

    assert increase("vllm:generation_tokens_total", "tiny-gen") == 14
    assert increase("vllm:prompt_tokens_total", "tiny-gen") == 2 * len(PROMPT)
    assert increase("vllm:request_success_total", "tiny-gen", finished_reason="length") == 2
    assert increase("vllm:time_to_first_token_seconds_count", "tiny-gen") == 2
    assert increase("vllm:inter_token_latency_seconds_count", "tiny-gen") == 12
    assert increase("vllm:request_generation_tokens_sum", "tiny-gen") == 14
    assert increase("vllm:e2e_request_latency_seconds_count", "tiny-embed") == 3
    assert increase("vllm:request_prompt_tokens_count", "tiny-embed") == 3
    assert number(after, "vllm:num_requests_running", model_name="tiny-gen") == 0


def test_the_memory_of_each_engine_is_measured(url: str) -> None:
    families = page(url)
    for process in ("service", "embed", "generate"):
        assert number(families, "memoria_process_memory_bytes", process=process) > 50 * 2**20


def test_without_engine_metrics_there_are_no_families(tiny_models: dict[str, Path]) -> None:
    service = ServiceProcess(tiny_environment(tiny_models) | {"ENGINE_METRICS": "false"})
    try:
        url = service.wait_until_ready()
        complete(url, 2)
        families = page(url)
        assert not [name for name in families if name.startswith("vllm:")]
        assert number(families, "memoria_service_ready") == 1
    finally:
        service.end()


def test_counters_survive_a_restart() -> None:
    statistics = EngineStatistics("model")
    for _start in range(2):
        counter = statistics.instrument("counter", "vllm:tokens", "Tokens.", ["engine"]).labels("0")
        gauge = statistics.instrument("gauge", "vllm:running", "Running.", ["engine"]).labels(engine=0)
        histogram = statistics.instrument("histogram", "vllm:latency", "Latency.", ["engine"], [1, 2]).labels("0")
        counter.inc(3)
        gauge.set(5)
        histogram.observe(2)
        histogram.observe(9)
        statistics.clear_gauges()
    families = {family.name: family for family in statistics.families()}
    # Gauges are cleared; counters and histograms are kept.
    assert set(families) == {"vllm:tokens", "vllm:latency"}
    (tokens,) = families["vllm:tokens"].samples
    assert (tokens.suffix, tokens.value, tokens.labels) == ("_total", 6, {"model_name": "model", "engine": "0"})
    collected = [(each.suffix, each.labels.get("le"), each.value) for each in families["vllm:latency"].samples]
    assert collected == [
        ("_bucket", "1.0", 0),
        ("_bucket", "2.0", 2),
        ("_bucket", "+Inf", 4),
        ("_count", None, 4),
        ("_sum", None, 22),
    ]


class Config(SimpleNamespace):
    """The part of vLLM's configuration that its logger reads; other attributes are None."""

    def __getattr__(self, name: str) -> Any:
        return None


def steps() -> list[tuple[SchedulerStats, IterationStats]]:
    """Statistics of engine steps: mostly tokens only, sometimes more, but not in the last step."""
    random = Random(1)
    collected = []
    for number in range(201):
        step = IterationStats()
        step.num_generation_tokens = random.randrange(20)
        step.inter_token_latencies_iter = [random.random() for _ in range(step.num_generation_tokens)]
        scheduled = SchedulerStats(num_running_reqs=random.randrange(9), kv_cache_usage=random.random())
        scheduled.num_waiting_reqs = random.randrange(9)
        if number % 7 == 3:
            step.prompt_token_stats.computed = step.prompt_token_stats.total = 12
            step.time_to_first_tokens_iter = [random.random()]
            scheduled.prefix_cache_stats.queries, scheduled.prefix_cache_stats.hits = 12, 5
        if number % 11 == 5:
            finished = FinishedRequestStats(
                FinishReason.STOP, e2e_latency=random.random(), num_generation_tokens=7
            )
            step.finished_requests = [finished]
        if number % 13 == 6:
            step.num_preempted_reqs = 1
        collected.append((scheduled, step))
    return collected


def test_metrics_match_those_of_vllms_logger() -> None:
    model = Config(served_model_name="model", max_model_len=512, is_diffusion=False)
    config = Config(model_config=model, observability_config=Config())
    statistics = EngineStatistics("model")
    ours = statistics.logger()(config, [0])
    # Created last, because each new logger unregisters the instruments of the others.
    own = PrometheusStatLogger(config, [0])
    for scheduled, step in steps():
        own.record(scheduled, step)
        ours.record(scheduled, step)
    assert ours._latest is not None, "the last step is already recorded"

    def rows(name: str, samples: Iterable[Any]) -> dict[tuple[str, ...], float]:
        return {
            (name, *(f"{label}={value}" for label, value in sorted(each.labels.items()))): each.value
            for each in samples
        }

    expected: dict[tuple[str, ...], float] = {}
    for family in REGISTRY.collect():
        if family.name.startswith("vllm:"):
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    expected |= rows(sample.name, [sample])
    counted: dict[tuple[str, ...], float] = {}
    for collected in statistics.families():
        for each in collected.samples:
            counted |= rows(collected.name + each.suffix, [each])
    assert counted == pytest.approx(expected)
    assert len(counted) > 200
    unregister_vllm_metrics()
