"""Checks that a response is valid, whatever the request was."""

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx

REQUEST_TIMEOUT_S = 60
JSON = {"content-type": "application/json"}
# A traceback, a file path, or a Python class.
LEAK = re.compile(
    r"Traceback|File \"|\.(?:py|cc|cpp|rs|h):?\d*\b|/(?:usr|home|root|tmp|project|work|opt)/"
    r"|\b[A-Z]\w+(?:Error|Exception)\b|<class |object at 0x"
)


def post(url: str, path: str, body: object, headers: Mapping[str, str | bytes] = JSON) -> httpx.Response:
    """Post a body and check the response. Bytes are sent unchanged, anything else as JSON, with NaN and
    surrogates."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(f"{url}{path}", content=raw, headers=headers, timeout=REQUEST_TIMEOUT_S, trust_env=False)
    judge(answer)
    if answer.status_code >= 400:
        assert ("request_id" in answer.json()) == path.startswith("/v1/messages"), answer.text[:500]
    return answer


def is_model_failure(text: str) -> bool:
    """Whether the model reached a dead end after its reasoning, as one with random weights may."""
    return '"The model ended its reasoning with a token that' in text


def judge(answer: httpx.Response) -> None:
    """Fail unless the response is in OpenAI's or Anthropic's format and not a server error."""
    if is_model_failure(answer.text) and answer.status_code >= 500:
        judge_error(strict_json(answer.text))
        return
    assert answer.status_code < 500, answer.text[:2000]
    if answer.headers["content-type"].startswith("text/event-stream"):
        judge_stream(answer.text)
    elif answer.status_code >= 400:
        judge_error(strict_json(answer.text))
    elif answer.headers["content-type"].startswith("text/html"):
        assert answer.text.startswith("<!doctype html>"), answer.text[:500]
    elif answer.headers["content-type"].startswith(("text/plain", "application/openmetrics-text")):
        assert answer.text.startswith("# HELP "), answer.text[:500]
    else:
        strict_json(answer.text)


def judge_stream(text: str) -> None:
    """Check that a stream ends with its end mark or with its only error event."""
    if text.startswith("event: "):
        judge_named_stream(text)
        return
    events = [block.removeprefix("data: ") for block in text.split("\n\n") if block.startswith("data: ")]
    parts = [strict_json(event) for event in events if event != "[DONE]"]
    errors = [part for part in parts if "error" in part]
    if errors:
        judge_error(errors[0])
        assert events[-1] != "[DONE]", text[-2000:]
        assert len(errors) == 1, text[-2000:]
        assert parts[-1] is errors[0], text[-2000:]
        assert errors[0]["error"]["type"] == "invalid_request_error" or is_model_failure(text), errors[0]
    else:
        assert events[-1] == "[DONE]", text[-2000:]


def judge_named_stream(text: str) -> None:
    """Check that a stream of events with names ends with `message_stop` or with its only error event."""
    blocks = [block.split("\n") for block in text.removesuffix("\n\n").split("\n\n")]
    events = [strict_json(data.removeprefix("data: ")) for _, data in blocks]
    assert [name for name, _ in blocks] == [f"event: {event['type']}" for event in events], text[-2000:]
    assert {event["type"] for event in events[:-1]}.isdisjoint({"error", "message_stop"}), text[-2000:]
    if events[-1]["type"] == "error":
        judge_error(events[-1])
        assert events[-1]["error"]["type"] == "invalid_request_error" or is_model_failure(text), events[-1]
    else:
        assert events[-1]["type"] == "message_stop", text[-2000:]


def judge_error(body: Any) -> None:
    """Check OpenAI's schema `Error`, or Anthropic's, and that the message leaks nothing."""
    error = body["error"]
    if body.keys() == {"error"}:
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error["param"], str | None)
        assert isinstance(error["code"], str | None)
    else:
        assert body.keys() == {"type", "error", "request_id"}
        assert body["type"] == "error"
        assert isinstance(body["request_id"], str | None)
        assert error.keys() - {"details"} == {"message", "type"}
    assert isinstance(error["message"], str)
    assert error["message"].strip(" .")
    assert isinstance(error["type"], str)
    assert not LEAK.search(error["message"]), error["message"]


def strict_json(text: str) -> Any:
    """Parse standard JSON, without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON: {text[:500]}")

    return json.loads(text, parse_constant=refuse)
