"""Writes `dashboard.json`: python tools/grafana_dashboard.py.

A dashboard is a long file in which only a few things differ from one panel to the next; these are here.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

SOURCE = {"type": "prometheus", "uid": "prometheus"}
"""The data source's uid, as `provisioning/datasources` gives it."""
MINE = 'job="$job", instance=~"$instance"'
ENGINES = 'job=~"$job|vllm"'
"""vLLM's metrics: on the service's page for engines inside it, else on those of its servers."""
WIDTH, HEIGHT = 24, 8
RATE = "[$__rate_interval]"
GREEN, YELLOW, RED = "green", "yellow", "red"


def quantile(share: float, family: str, by: str, labels: str = MINE) -> str:
    """A percentile of a histogram."""
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({family}_bucket{{{labels}}}{RATE})))"


def rate(series: str, by: str, labels: str = "") -> str:
    """How much a second, by label."""
    return f"sum by ({by}) (rate({series}{{{MINE}{', ' + labels if labels else ''}}}{RATE}))"


def percentiles(family: str, by: str, name: str, labels: str = MINE) -> list[tuple[str, str]]:
    """The median and two that hurt."""
    return [(quantile(share, family, by, labels), f"p{share * 100:g} {name}") for share in (0.5, 0.95, 0.99)]


def chart(
    title: str, queries: list[tuple[str, str]], *, unit: str = "short", about: str = "", **custom: Any
) -> dict[str, Any]:
    """Lines over time."""
    style = {"lineWidth": 2, "fillOpacity": 8, "showPoints": "never", "spanNulls": False} | custom
    return {
        "type": "timeseries",
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": style}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": _targets(queries),
    }


def number(
    title: str, query: str, *, unit: str = "short", about: str = "", steps: list[tuple[float | None, str]]
) -> dict[str, Any]:
    """One number, in the colour of how good it is."""
    return {
        "type": "stat",
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "thresholds": {
                    "mode": "absolute",
                    "steps": [{"value": at, "color": color} for at, color in steps],
                },
            },
            "overrides": [],
        },
        "options": {"colorMode": "background", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": _targets([(query, "")]),
    }


def states(title: str, query: str, name: str, *, about: str) -> dict[str, Any]:
    """What has been in which state, and when."""
    return {
        "type": "state-timeline",
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {
                "custom": {"fillOpacity": 80, "lineWidth": 0},
                "mappings": [
                    {
                        "type": "value",
                        "options": {
                            "0": {"text": " ", "color": "transparent"},
                            "1": {"text": "yes", "color": "blue"},
                        },
                    }
                ],
            },
            "overrides": [],
        },
        "options": {"showValue": "never", "mergeValues": True, "legend": {"showLegend": False}},
        "targets": _targets([(query, name)]),
    }


def row(title: str) -> dict[str, Any]:
    """A heading."""
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def _targets(queries: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query, "legendFormat": name}
        for index, (query, name) in enumerate(queries)
    ]


HTTP = "http_server_request_duration_seconds"
CALLS = "gen_ai_server_request_duration_seconds"
FIRST = "gen_ai_server_time_to_first_token_seconds"
EACH = "gen_ai_server_time_per_output_token_seconds"
TOKENS = "gen_ai_client_token_usage"
MODEL = "gen_ai_request_model"
API = 'http_route=~"/v1/.*"'
FAILED = f'{API}, http_response_status_code=~"5.."'
BROKEN_OFF = f'{API}, http_response_status_code="200", error_type!="", error_type!="cancelled"'
"""Streams that had their status before they failed. Cancelled ones were left by their client."""

PANELS: list[tuple[int, dict[str, Any]]] = [
    (24, row("At a glance")),
    (
        4,
        number(
            "Ready",
            f"min(memoria_service_ready{{{MINE}}})",
            about="1 if all models are served.",
            steps=[(None, RED), (1, GREEN)],
        ),
    ),
    (
        4,
        number(
            "Requests", f"sum(rate({HTTP}_count{{{MINE}, {API}}}{RATE}))", unit="reqps", steps=[(None, "blue")]
        ),
    ),
    (
        4,
        number(
            "Failures",
            f"(sum(rate({HTTP}_count{{{MINE}, {FAILED}}}{RATE}) or rate({HTTP}_count{{{MINE}, {BROKEN_OFF}}}{RATE})) or vector(0)) / sum(rate({HTTP}_count{{{MINE}, {API}}}{RATE}))",
            unit="percentunit",
            about="Share of requests that failed by the service's fault, streams that broke off included.",
            steps=[(None, GREEN), (0.01, YELLOW), (0.05, RED)],
        ),
    ),
    (
        4,
        number(
            "Tokens written",
            f'sum(rate({TOKENS}_sum{{{MINE}, gen_ai_token_type="output"}}{RATE}))',
            unit="short",
            about="A second.",
            steps=[(None, "blue")],
        ),
    ),
    (
        4,
        number(
            "First token, p95",
            f"histogram_quantile(0.95, sum by (le) (rate({FIRST}_bucket{{{MINE}}}{RATE})))",
            unit="s",
            about="Of streams.",
            steps=[(None, GREEN), (2, YELLOW), (5, RED)],
        ),
    ),
    (
        4,
        number(
            "Waiting",
            f"sum(memoria_requests_waiting{{{MINE}}})",
            about="Requests that wait for their turn.",
            steps=[(None, GREEN), (1, YELLOW), (100, RED)],
        ),
    ),
    (24, row("Requests")),
    (8, chart("Requests by route", [(rate(f"{HTTP}_count", "http_route"), "{{http_route}}")], unit="reqps")),
    (
        8,
        chart(
            "Answers other than 200",
            [
                (
                    rate(
                        f"{HTTP}_count",
                        "http_response_status_code, error_type",
                        'http_response_status_code!="200"',
                    ),
                    "{{http_response_status_code}} {{error_type}}",
                )
            ],
            unit="reqps",
        ),
    ),
    (
        8,
        chart(
            "Time of requests",
            percentiles(HTTP, "job", "", f"{MINE}, {API}"),
            unit="s",
            about="Until the last byte; streams are long by nature.",
        ),
    ),
    (24, row("Models")),
    (
        8,
        chart(
            "Time to the first token",
            percentiles(FIRST, MODEL, "{{gen_ai_request_model}}"),
            unit="s",
            about="Of streams, waiting included.",
        ),
    ),
    (
        8,
        chart(
            "Time for each further token",
            percentiles(EACH, MODEL, "{{gen_ai_request_model}}"),
            unit="s",
            about="Of streams.",
        ),
    ),
    (
        8,
        chart(
            "Time of calls",
            percentiles(CALLS, MODEL, "{{gen_ai_request_model}}"),
            unit="s",
            about="Waiting included.",
        ),
    ),
    (
        12,
        chart(
            "Tokens a second",
            [
                (
                    rate(f"{TOKENS}_sum", f"{MODEL}, gen_ai_token_type"),
                    "{{gen_ai_request_model}} {{gen_ai_token_type}}",
                )
            ],
            about="Prompts are input, answers output.",
        ),
    ),
    (
        12,
        chart(
            "Failed calls",
            [
                (
                    rate(f"{CALLS}_count", f"{MODEL}, error_type", 'error_type!=""'),
                    "{{gen_ai_request_model}} {{error_type}}",
                )
            ],
            unit="reqps",
            about="cancelled: the client has left.",
        ),
    ),
    (24, row("Queues")),
    (
        8,
        chart(
            "Running and waiting",
            [
                (f"sum by (role) (memoria_requests_running{{{MINE}}})", "{{role}} running"),
                (f"sum by (role) (memoria_requests_waiting{{{MINE}}})", "{{role}} waiting"),
            ],
        ),
    ),
    (
        8,
        chart(
            "Queue, how full",
            [
                (
                    f"sum by (role) (memoria_requests_waiting{{{MINE}}}) / (sum by (role) (memoria_requests_waiting_limit{{{MINE}}}) > 0)",
                    "{{role}} requests",
                ),
                (
                    f"sum by (role) (memoria_tokens_waiting{{{MINE}}}) / (sum by (role) (memoria_tokens_waiting_limit{{{MINE}}}) > 0)",
                    "{{role}} tokens",
                ),
                (
                    f"sum by (role) (memoria_tokens_running{{{MINE}}}) / (sum by (role) (memoria_tokens_running_limit{{{MINE}}}) > 0)",
                    "{{role}} tokens running",
                ),
                (
                    f"sum by (role) (memoria_requests_running{{{MINE}}}) / (sum by (role) (memoria_requests_running_limit{{{MINE}}}) > 0)",
                    "{{role}} requests running",
                ),
            ],
            unit="percentunit",
            about="Past 100 % of what may wait clients get status 429.",
        ),
    ),
    (
        8,
        chart(
            "Running, by class of service",
            [(f"sum by (role, class) (memoria_class_running{{{MINE}}})", "{{role}} {{class}}")],
            about="Flex and batch run in what interactive requests leave.",
        ),
    ),
    (
        8,
        chart(
            "Waiting, by class of service",
            [(f"sum by (role, class) (memoria_class_waiting{{{MINE}}})", "{{role}} {{class}}")],
        ),
    ),
    (8, chart("Wait for a turn", percentiles("memoria_queue_wait_seconds", "role", "{{role}}"), unit="s")),
    (
        8,
        chart(
            "Requests per batch",
            percentiles("memoria_join_size", "role", ""),
            about="Batches of several embedding requests.",
        ),
    ),
    (8, chart("Wait for a batch", percentiles("memoria_join_wait_seconds", "role", ""), unit="s")),
    (
        8,
        chart(
            "Embedding cache",
            [
                (f"sum by (result) (rate(memoria_embedding_cache_inputs_total{{{MINE}}}{RATE}))", "{{result}}"),
            ],
            about="Inputs a second: there already (hit), being computed (shared), computed (miss).",
        ),
    ),
    (
        8,
        chart(
            "Batches that have not ended",
            [(f"max by (status) (memoria_batches_unfinished{{{MINE}}})", "{{status}}")],
            about="Of the database, which several instances may share.",
        ),
    ),
    (
        8,
        chart(
            "Lines of batches a second",
            [(rate("memoria_batches_lines_total", "result"), "{{result}}")],
        ),
    ),
    (24, row("Engines and servers")),
    (
        12,
        states(
            "States of engines",
            f"max by (role, state) (memoria_engine_state{{{MINE}}}) > 0",
            "{{role}} {{state}}",
            about="A line for each state that an engine has been in.",
        ),
    ),
    (
        6,
        chart(
            "Engines started again",
            [(f"sum by (role) (increase(memoria_engine_restarts_total{{{MINE}}}[1h]))", "{{role}}")],
            about="In the hour before.",
        ),
    ),
    (
        6,
        chart(
            "Retries",
            [
                (rate("memoria_retries_total", "role"), "{{role}} made"),
                (rate("memoria_retries_given_up_total", "role"), "{{role}} given up"),
            ],
            unit="reqps",
            about="Over HTTP.",
        ),
    ),
    (
        12,
        states(
            "Breakers and servers",
            f'max by (server, state) (memoria_server_breaker{{{MINE}, state!="closed"}}) > 0 or max by (server, state) (memoria_server_state{{{MINE}, state!="ready"}}) > 0',
            "{{server}} {{state}}",
            about="Servers that are left alone, tried, or gone.",
        ),
    ),
    (
        6,
        chart(
            "Work under way, by server",
            [(f"sum by (server) (memoria_server_outstanding{{{MINE}}})", "{{server}}")],
        ),
    ),
    (
        6,
        chart(
            "Servers left out",
            [(f"sum by (server) (increase(memoria_server_ejections_total{{{MINE}}}[1h]))", "{{server}}")],
            about="In the hour before.",
        ),
    ),
    (24, row("vLLM")),
    (
        8,
        chart(
            "KV cache, how full",
            [(f"max by (model_name) (vllm:kv_cache_usage_perc{{{ENGINES}}})", "{{model_name}}")],
            unit="percentunit",
        ),
    ),
    (
        8,
        chart(
            "In the engine",
            [
                (f"sum by (model_name) (vllm:num_requests_running{{{ENGINES}}})", "{{model_name}} running"),
                (f"sum by (model_name) (vllm:num_requests_waiting{{{ENGINES}}})", "{{model_name}} waiting"),
            ],
        ),
    ),
    (
        8,
        chart(
            "Prompt tokens that were in the prefix cache",
            [
                (
                    f"sum by (model_name) (rate(vllm:prefix_cache_hits_total{{{ENGINES}}}{RATE})) / (sum by (model_name) (rate(vllm:prefix_cache_queries_total{{{ENGINES}}}{RATE})) > 0)",
                    "{{model_name}}",
                ),
            ],
            unit="percentunit",
        ),
    ),
    (
        12,
        chart(
            "Time between tokens, in the engine",
            percentiles("vllm:inter_token_latency_seconds", "model_name", "{{model_name}}", ENGINES),
            unit="s",
        ),
    ),
    (
        12,
        chart(
            "Preemptions",
            [(f"sum by (model_name) (rate(vllm:num_preemptions_total{{{ENGINES}}}{RATE}))", "{{model_name}}")],
            about="Requests that lost their place for want of KV cache; a second.",
        ),
    ),
    (24, row("Memory")),
    (
        6,
        chart(
            "Processes",
            [(f"sum by (process) (memoria_process_memory_bytes{{{MINE}}})", "{{process}}")],
            unit="bytes",
        ),
    ),
    (
        6,
        chart(
            "Card",
            [
                (f"max(memoria_gpu_memory_used_bytes{{{MINE}}})", "used"),
                (f"max(memoria_gpu_memory_limit_bytes{{{MINE}}})", "there"),
            ],
            unit="bytes",
        ),
    ),
    (
        6,
        chart(
            "Memory of the embedding cache",
            [
                (f"sum(memoria_embedding_cache_size_bytes{{{MINE}}})", "used"),
                (f"sum(memoria_embedding_cache_limit_bytes{{{MINE}}})", "there"),
            ],
            unit="bytes",
        ),
    ),
    (6, chart("Vectors in the embedding cache", [(f"sum(memoria_embedding_cache_entries{{{MINE}}})", "vectors")])),
]


def dashboard() -> dict[str, Any]:
    """The whole of it."""
    return {
        "uid": "memoria-vllm",
        "title": "memoria-vllm",
        "tags": ["memoria-vllm", "vllm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                _variable("job", "label_values(memoria_build_info, job)", several=False),
                _variable("instance", 'label_values(memoria_build_info{job="$job"}, instance)', several=True),
            ]
        },
        "panels": _placed(PANELS),
    }


def _variable(name: str, query: str, *, several: bool) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "multi": several,
        "includeAll": several,
        "current": {"text": "All", "value": "$__all"} if several else {"text": "memoria", "value": "memoria"},
    }


def _placed(panels: list[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """From left to right, and on the next line when there is no room."""
    placed, x, y, line = [], 0, 0, 0
    for number_, (width, panel) in enumerate(panels, start=1):
        height = {"row": 1, "stat": 4}.get(panel["type"], HEIGHT)
        if x + width > WIDTH:
            x, y, line = 0, y + line, 0
        placed.append({"id": number_, **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
        x, line = x + width, max(line, height)
    return placed


if __name__ == "__main__":
    (ROOT / "deploy" / "observability" / "grafana" / "dashboard.json").write_text(
        json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    )
