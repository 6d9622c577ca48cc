"""What every answer must be like, to whatever was asked."""

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx

REQUEST_TIMEOUT_S = 60
JSON = {"content-type": "application/json"}
# A traceback, a file of somebody's machine, or a class of Python's.
LEAK = re.compile(
    r"Traceback|File \"|\.(?:py|cc|cpp|rs|h):?\d*\b|/(?:usr|home|root|tmp|project|work|opt)/"
    r"|\b[A-Z]\w+(?:Error|Exception)\b|<class |object at 0x"
)


def post(url: str, path: str, body: object, headers: Mapping[str, str | bytes] = JSON) -> httpx.Response:
    """The judged answer to a body: bytes as they are, anything else as JSON, with NaN and lone surrogates."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(f"{url}{path}", content=raw, headers=headers, timeout=REQUEST_TIMEOUT_S, trust_env=False)
    judge(answer)
    return answer


def is_models_fault(text: str) -> bool:
    """Whether the model itself came to a dead end, as one with random weights may after thinking."""
    return '"The model ended its reasoning with a token that' in text


def judge(answer: httpx.Response) -> None:
    """Fail unless this is an answer that a client can work with: no failure of the server, in OpenAI's shape."""
    if is_models_fault(answer.text) and answer.status_code >= 500:
        judge_error(strictly(answer.text))
        return
    assert answer.status_code < 500, answer.text[:2000]
    if answer.headers["content-type"].startswith("text/event-stream"):
        judge_stream(answer.text)
    elif answer.status_code >= 400:
        judge_error(strictly(answer.text))
    elif answer.headers["content-type"].startswith("text/html"):
        assert answer.text.startswith("<!doctype html>"), answer.text[:500]
    elif answer.headers["content-type"].startswith(("text/plain", "application/openmetrics-text")):
        assert answer.text.startswith("# HELP "), answer.text[:500]
    else:
        strictly(answer.text)


def judge_stream(text: str) -> None:
    """A stream ends with its mark, or with the one error event in it."""
    events = [block.removeprefix("data: ") for block in text.split("\n\n") if block.startswith("data: ")]
    parts = [strictly(event) for event in events if event != "[DONE]"]
    errors = [part for part in parts if "error" in part]
    if errors:
        judge_error(errors[0])
        assert events[-1] != "[DONE]", text[-2000:]
        assert len(errors) == 1, text[-2000:]
        assert parts[-1] is errors[0], text[-2000:]
        assert errors[0]["error"]["type"] == "invalid_request_error" or is_models_fault(text), errors[0]
    else:
        assert events[-1] == "[DONE]", text[-2000:]


def judge_error(body: Any) -> None:
    """OpenAI's schema `Error`, and words that are for the caller."""
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"].strip(" .")
    assert isinstance(error["type"], str)
    assert isinstance(error["param"], str | None)
    assert isinstance(error["code"], str | None)
    assert not LEAK.search(error["message"]), error["message"]


def strictly(text: str) -> Any:
    """JSON as the standard has it, without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON: {text[:500]}")

    return json.loads(text, parse_constant=refuse)
