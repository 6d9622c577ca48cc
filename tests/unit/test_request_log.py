"""The log line of each request: its fields, and no private data."""

import asyncio
import json
import logging

import pytest

from app.batches.execution import LineExecutor
from app.telemetry.log import JSON, JsonFormatter, set_up
from app.telemetry.record import PROBES, RequestRecord
from app.telemetry.request_log import RequestLog, fields, text
from app.telemetry.telemetry import Telemetry
from domain.errors import BackendFailedError
from domain.roles import Role
from domain.service_class import ServiceClass
from tests.unit.observed import observing
from tests.unit.serving import BODIES, CHAT, COMPLETE, EMBED

FULL = {
    "request_id": "mine",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "began": 1.0,
    "method": "POST",
    "route": CHAT,
    "key": "alice",
    "status": 200,
    "duration_s": 1.23456,
    "operation": "chat",
    "role": Role.GENERATE,
    "model": "the-model",
    "is_stream": True,
    "queue_s": 0.01,
    "first_token_s": 0.5,
    "prompt_tokens": 10,
    "completion_tokens": 20,
}
SECRET, KEY = "a very secret sentence", "sk-open-0123456789-ab"
ODD = 'odd "name"\n{"level":"error","message":"forged"}\r\x1b[31m'


def record(**more) -> RequestRecord:
    return RequestRecord(**({"request_id": "mine", "began": 1.0, "method": "GET", "route": "/v1/models"} | more))


def full(**more) -> RequestRecord:
    return RequestRecord(**(FULL | more))


@pytest.fixture
def lines(caplog):
    """Logs a record, and returns its lines as JSON with their level."""
    caplog.set_level(logging.DEBUG, "memoria.request")
    formatter = JsonFormatter()

    def result(what: RequestRecord) -> list[dict]:
        caplog.clear()
        RequestLog().request_ended(what)
        return [json.loads(formatter.format(each)) for each in caplog.records if each.name == "memoria.request"]

    return result


def test_a_line_has_all_that_is_known(lines):
    (line,) = lines(full())
    time = line.pop("time")
    assert time
    assert line == {
        "level": "info",
        "logger": "memoria.request",
        "message": "POST /v1/chat/completions 200 in 1234.6 ms, first token after 500 ms, 10 + 20 tokens, "
        "the-model, mine",
        "request_id": "mine",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "key": "alice",
        "method": "POST",
        "route": CHAT,
        "operation": "chat",
        "model": "the-model",
        "stream": True,
        "status": 200,
        "client_gone": False,
        "duration_ms": 1234.6,
        "first_token_ms": 500.0,
        "queue_ms": 10.0,
        "prompt_tokens": 10,
        "completion_tokens": 20,
    }


def test_fields_that_do_not_apply_are_omitted():
    assert fields(record(status=200)) == {
        "request_id": "mine",
        "method": "GET",
        "route": "/v1/models",
        "status": 200,
        "client_gone": False,
        "duration_ms": 0.0,
    }


def test_a_request_without_streaming_is_marked():
    assert fields(full(is_stream=False))["stream"] is False


def test_a_failure_has_its_error_type():
    failed = full(status=500, error_type="server_error")
    assert fields(failed)["error_type"] == "server_error"
    assert "server_error" in text(failed)


def test_a_disconnected_client_is_flagged():
    left = full(status=499, error_type="cancelled", client_gone=True)
    assert fields(left)["client_gone"] is True
    assert "client disconnected" in text(left)
    assert "cancelled" not in text(left)


@pytest.mark.parametrize(
    ("more", "level"),
    [
        ({"status": 200}, "info"),
        ({"status": 204}, "info"),
        ({"status": 400, "error_type": "invalid_request_error"}, "info"),
        ({"status": 401, "error_type": "invalid_api_key"}, "info"),
        ({"status": 429, "error_type": "queue_full"}, "info"),
        ({"status": 499, "error_type": "cancelled", "client_gone": True}, "info"),
        ({"status": 200, "error_type": "cancelled", "client_gone": True}, "info"),
        ({"status": 500, "error_type": "server_error"}, "error"),
        ({"status": 503, "error_type": "model_not_ready"}, "error"),
        ({"status": 504, "error_type": "timeout"}, "error"),
        ({"status": 200, "error_type": "server_error"}, "error"),
        ({"status": 0, "error_type": "service_stopping"}, "error"),
    ],
)
def test_only_server_failures_have_level_error(lines, more, level):
    (line,) = lines(record(**more))
    assert line["level"] == level


@pytest.mark.parametrize("route", [*sorted(PROBES), "/page/{name:str}"])
def test_probes_are_logged_at_level_debug(lines, route):
    (line,) = lines(record(route=route, status=503))
    assert line["level"] == "debug"


def test_below_the_level_nothing_is_logged(caplog):
    caplog.set_level(logging.WARNING, "memoria.request")
    RequestLog().request_ended(full())
    assert caplog.records == []
    RequestLog().request_ended(full(status=500, error_type="server_error"))
    assert len(caplog.records) == 1


# From real requests


@pytest.fixture
async def logged(capsys, tmp_path, logging_as_before):
    """An application with a log, and its lines."""
    keys = tmp_path / "keys"
    keys.write_text(f"alice {KEY}\n")
    async with observing(settings={"API_KEYS_FILE": str(keys)}) as api:
        api.http.headers["authorization"] = f"Bearer {KEY}"
        api.app.telemetry = Telemetry([RequestLog()])
        set_up("debug", JSON)
        capsys.readouterr()

        def written() -> list[dict]:
            found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
            return [line for line in found if line["logger"] == "memoria.request"]

        yield api, written


@pytest.mark.parametrize("path", [EMBED, COMPLETE, CHAT])
async def test_a_request_is_one_line(logged, path):
    api, written = logged
    await api.http.post(path, json=BODIES[path], headers={"x-request-id": "req/1"})
    (line,) = written()
    assert (line["request_id"], line["route"], line["status"], line["key"]) == ("req/1", path, 200, "alice")
    assert line["model"] == BODIES[path]["model"]
    assert line["prompt_tokens"] > 0
    assert line["duration_ms"] > 0


async def test_a_stream_is_one_line_with_its_time_to_the_first_token(logged):
    api, written = logged
    await api.chat(stream=True)
    (line,) = written()
    assert line["stream"] is True
    assert 0 < line["first_token_ms"] <= line["duration_ms"]
    assert line["completion_tokens"] == 4


async def test_nothing_private_is_in_any_line(logged, capsys):
    api, _ = logged
    await api.chat(SECRET, stream=True)
    await api.complete(SECRET, stop=[SECRET])
    await api.embed(SECRET)
    await api.post(COMPLETE, prompt=[SECRET], temperature=99)
    await api.http.get(f"/{SECRET}?q={SECRET}", headers={"x-other": SECRET})
    await api.http.get("/v1/models", headers={"authorization": f"Bearer wrong{KEY}"})
    api.writer.fail_next = BackendFailedError(SECRET)
    await api.complete(stream=True)
    err = capsys.readouterr().err
    assert len(err.splitlines()) >= 7
    assert SECRET not in err
    assert KEY not in err


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", CHAT, {"json": BODIES[CHAT] | {"model": ODD}}),
        ("POST", COMPLETE, {"json": BODIES[COMPLETE] | {"user": ODD}}),
        ("GET", "/a%0d%0aforged", {}),
        ("GET", "/v1/models/a%0d%0aforged", {}),
        ("POST", EMBED, {"json": BODIES[EMBED], "headers": [(b"x-request-id", ODD.encode())]}),
        ("POST", EMBED, {"json": BODIES[EMBED], "headers": [(b"user-agent", b"forged\n")]}),
        ("FOR\nGED", EMBED, {}),
    ],
)
async def test_special_characters_do_not_forge_lines(logged, method, path, sent):
    api, written = logged
    await api.http.request(method, path, **sent)
    (line,) = written()
    assert "forged" not in json.dumps(line)
    assert "\n" not in line["message"]


async def test_a_client_that_has_no_key_is_a_line_without_one(logged):
    api, written = logged
    await api.http.get("/v1/models", headers={"authorization": "x"})
    (line,) = written()
    assert (line["status"], line["route"]) == (401, "/v1/models")
    assert "key" not in line


# Lines of batches


@pytest.mark.parametrize(
    ("more", "level"),
    [
        ({"status": 200}, "debug"),
        ({"status": 499, "error_type": "cancelled", "client_gone": True}, "debug"),
        ({"status": 429, "error_type": "queue_full"}, "debug"),
        ({"status": 503, "error_type": "model_not_ready"}, "debug"),
        ({"status": 400, "error_type": "context_length_exceeded"}, "info"),
        ({"status": 500, "error_type": "server_error"}, "error"),
        ({"status": 0, "error_type": "service_stopping"}, "error"),
    ],
)
def test_a_line_of_a_batch_is_logged_if_it_fails(lines, more, level):
    (line,) = lines(full(service_class=ServiceClass.BATCH, **more))
    assert (line["level"], line["service_class"]) == (level, "batch")


async def test_a_class_that_gives_way_is_logged(logged):
    api, written = logged
    await api.chat(service_tier="flex")
    await api.chat()
    assert [line.get("service_class") for line in written()] == ["flex", None]


async def test_the_class_of_a_line_is_known_before_its_body_is_read(logged):
    api, written = logged
    executor, leave = LineExecutor(api.app), asyncio.Event()
    for body in (b'{"model": "fake-embed", "input": "text"}', b"{"):
        await executor.run(EMBED, body, owner="alice", leave=leave)
    found = [(line["level"], line["service_class"]) for line in written()]
    assert found == [("debug", "batch"), ("info", "batch")]
