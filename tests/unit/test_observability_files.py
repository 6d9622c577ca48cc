"""The files for Prometheus, Grafana and the Collector use only metrics that the service exposes."""

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.telemetry import conventions
from app.telemetry.instruments import BY_FAMILY, INSTRUMENTS, Kind
from domain.errors import OverloadedError, TooManyConnectionsError
from domain.health import BackendState, BreakerState
from domain.roles import Role
from tests.promql import parse, read

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "observability"
RULES = yaml.safe_load((FOLDER / "prometheus" / "alerts.yaml").read_text())
RULE_TESTS = yaml.safe_load((FOLDER / "prometheus" / "alerts.test.yaml").read_text())
PROMETHEUS = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yaml").read_text())
COLLECTOR = yaml.safe_load((FOLDER / "collector.yaml").read_text())
DASHBOARD = json.loads((FOLDER / "grafana" / "dashboard.json").read_text())
ALL_RULES = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL_RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in ALL_RULES if "record" in rule}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
# Added by Prometheus itself.
TARGET_LABELS = {"job", "instance"}
SUFFIXES = {Kind.COUNTER: ("_total",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
SHOWN = {
    instrument.family + suffix: TARGET_LABELS | set(instrument.labels) | ({"le"} if suffix == "_bucket" else set())
    for instrument in INSTRUMENTS
    for suffix in SUFFIXES[instrument.kind]
} | {"up": TARGET_LABELS}


def assert_is_shown(expression: str, *, recorded: set[str] = RECORDED) -> None:
    for name, label in read(expression):
        if name in recorded:
            assert label in {"", "job"}, f"{label} of {name}"
        elif name.startswith("vllm:"):
            # Compared with real engines in tests/integration/test_engine_statistics.py.
            assert label in {"", "le", "job", "instance", "model_name", "engine"}, f"{label} of {name}"
        else:
            assert name in SHOWN, f"{name} is not exposed"
            assert not label or label in SHOWN[name], f"{name} has no label {label}"


def label_values(expression: str, label: str) -> set[str]:
    return set(re.findall(rf'\b{label}="([^"$]*)"', expression))


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_read_what_is_shown(rule: dict[str, Any]):
    assert_is_shown(rule["expr"])


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[title for title, _ in QUERIES])
def test_panels_read_what_is_shown(title: str, expression: str):
    assert_is_shown(expression, recorded=set())


def test_an_unknown_metric_would_be_noticed():
    for wrong in (
        "memoria_made_up",
        'memoria_service_ready{role="embed"}',
        "sum by (model) (memoria_service_ready)",
    ):
        with pytest.raises(AssertionError):
            assert_is_shown(wrong)
    with pytest.raises(ValueError):
        parse("sum(rate(x[5m])")


def test_values_of_labels_are_values_that_occur():
    expressions = [rule["expr"] for rule in ALL_RULES] + [expression for _, expression in QUERIES]
    states = {*BackendState, *BreakerState}
    for expression in expressions:
        assert label_values(expression, "state") <= states
        assert label_values(expression, "role") <= set(Role)
        assert label_values(expression, "process") <= {"service", *Role}
        assert label_values(expression, "gen_ai_token_type") <= {conventions.INPUT, conventions.OUTPUT}


def test_all_rejections_for_capacity_raise_the_alert():
    (types,) = re.findall(r'error_type=~"(.*?)"', ALERTS["MemoriaRefuses"]["expr"])
    assert set(types.split("|")) == {OverloadedError.default_code, TooManyConnectionsError.default_code}


def test_failures_are_the_same_on_the_dashboard_and_in_the_alert():
    """They include streams that fail midway, whose status is 200."""

    def selectors(expression: str) -> set[str]:
        counted = re.findall(r"http_server_request_duration_seconds_count\{(.*?)\}", expression)
        return {each.removeprefix('job="$job", instance=~"$instance", ') for each in counted}

    (failures,) = [expression for title, expression in QUERIES if title == "Failures"]
    (recorded,) = [rule["expr"] for rule in ALL_RULES if rule.get("record") == "job:memoria_failures:rate5m"]
    assert selectors(failures) == selectors(recorded) | {'http_route=~"/v1/.*"'}
    assert any('http_response_status_code="200"' in each for each in selectors(failures))


def test_every_metric_of_the_service_is_on_the_dashboard():
    families = {
        name.removesuffix("_total").removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        for _, expression in QUERIES
        for name, _ in read(expression)
    }
    named = {BY_FAMILY[family].name for family in families if family in BY_FAMILY}
    # It is used in the dashboard's variables, and has no panel.
    assert {instrument.name for instrument in INSTRUMENTS} - named == {"memoria.build.info"}


def test_alerts_say_what_is_wrong_and_what_to_do():
    for name, alert in ALERTS.items():
        assert name.startswith("Memoria")
        assert alert["labels"]["severity"] in {"warning", "critical"}
        for text in (alert["annotations"]["summary"], alert["annotations"]["description"]):
            assert text.endswith("."), name
        aggregated = re.match(r"\s*(sum|histogram_quantile|job:)", alert["expr"]) is not None
        message = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
        known = {label for _, label in read(alert["expr"])} | (set() if aggregated else TARGET_LABELS)
        known |= {label for series, _ in read(alert["expr"]) for label in (set() if aggregated else SHOWN[series])}
        assert message <= known, name


def test_each_alert_is_shown_firing_and_silent():
    cases = [case for test in RULE_TESTS["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(ALERTS)
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(ALERTS)
    for test in RULE_TESTS["tests"]:
        for series in test["input_series"]:
            assert_is_shown(series["series"])


@pytest.mark.parametrize(
    "arguments",
    [("test", "rules", "alerts.test.yaml"), ("check", "config", "prometheus.yaml")],
    ids=["alerts fire as they should", "the configuration is one"],
)
def test_promtool_accepts_the_rules(arguments: tuple[str, ...]):
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed; Debian's package prometheus has it")
    found = subprocess.run([tool, *arguments], cwd=FOLDER / "prometheus", capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_prometheus_reads_the_rules_and_finds_the_service():
    assert PROMETHEUS["rule_files"] == ["alerts.yaml"]
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    assert jobs["memoria"]["static_configs"] == [{"targets": ["memoria:8200"]}]
    # Path and scheme are Prometheus's defaults: /metrics over http.
    assert not {"metrics_path", "scheme"} & set(jobs["memoria"])
    assert set(jobs) == {"memoria", "vllm"}


def test_the_dashboard_is_what_the_script_writes():
    script = runpy.run_path(str(ROOT / "tools" / "grafana_dashboard.py"))
    assert script["dashboard"]() == DASHBOARD


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) >= len(PANELS) - 1


def test_legends_name_existing_labels():
    for panel in PANELS:
        for target in panel["targets"]:
            message = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert message <= {label for _, label in read(target["expr"])}, panel["title"]


def test_the_collector_defines_what_it_uses():
    pipelines = COLLECTOR["service"]["pipelines"]
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        assert used <= set(COLLECTOR[kind])
        # Alternative ways for metrics, as the file's comment explains.
        assert set(COLLECTOR[kind]) - used <= {"prometheus"}
    assert COLLECTOR["service"]["extensions"] == list(COLLECTOR["extensions"])
    assert set(pipelines) == {"traces", "metrics"}
    for pipeline in pipelines.values():
        assert pipeline["processors"][0] == "memory_limiter"
    (scraped,) = COLLECTOR["receivers"]["prometheus"]["config"]["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": ["memoria:8200"]}]
