"""Invalid or unusual JSON bodies, wrong headers, and paths that do not exist."""

import json
from typing import Any

import httpx
import pytest

from tests.integration.bad_input.cases import POSTS, VALID
from tests.integration.bad_input.judge import JSON, REQUEST_TIMEOUT_S, judge, post
from tests.processes import ServiceProcess

pytestmark = pytest.mark.integration

VALID_BODIES: dict[str, dict[str, Any]] = dict(reversed(VALID))
DEEP = 100_000
RAW = {
    "nothing": b"",
    "white space": b" \n\t ",
    "null": b"null",
    "a number": b"1",
    "text": b'"model"',
    "a list": b"[]",
    "an empty object": b"{}",
    "two objects": b"{}{}",
    "half an object": b'{"model": "tiny-gen", "prompt": "x',
    "half a name": b'{"mod',
    "half an escape": b'{"model": "\\u00',
    "a byte in an item": b'{"model": "tiny-gen", "input": [{"type": "\xff"}]}',
    "a byte in a tool": b'{"model": "tiny-gen", "input": "x", "tools": [{"type": "\xff"}]}',
    "a comma too many": b'{"model": "tiny-gen",}',
    "single quotes": b"{'model': 'tiny-gen'}",
    "a comment": b'{"model": "tiny-gen" /* x */}',
    "a form": b"model=tiny-gen&prompt=x",
    "a mark in front": b'\xef\xbb\xbf{"model": "tiny-gen"}',
    "UTF-16": '{"model": "tiny-gen"}'.encode("utf-16"),
    "bytes that are no text": b'{"model": "\xff\xfe\x80"}',
    "an overlong encoding": b'{"model": "\xc0\xaf"}',
    "an encoded surrogate": b'{"model": "\xed\xa0\x80"}',
    "an escaped half of a surrogate": b'{"model": "\\ud800"}',
    "a raw line end in text": b'{"model": "a\nb"}',
    "zeros": b"\x00" * 1000,
    "NaN": b'{"model": NaN}',
    "infinity": b'{"model": "tiny-gen", "temperature": Infinity}',
    "an infinite number": b'{"model": "tiny-gen", "temperature": 1e999}',
    "a number of 5,000 digits": b'{"model": "tiny-gen", "max_tokens": ' + b"9" * 5000 + b"}",
    "a fraction of 5,000 digits": b'{"model": "tiny-gen", "temperature": 0.' + b"9" * 5000 + b"}",
    "a long exponent": b'{"model": "tiny-gen", "temperature": 1e' + b"9" * 5000 + b"}",
    "deep lists": b"[" * DEEP,
    "deep closed lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a deep field": b'{"model": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a long name": b'{"' + b"x" * 1_000_000 + b'": 1}',
    "many names": json.dumps({f"name {i}": i for i in range(100_000)}).encode(),
    "a name that is a path": b'{"../../etc": 1, "__proto__": {}, "$ref": "x", "": 1}',
}


@pytest.mark.parametrize("body", RAW.values(), ids=RAW)
def test_an_invalid_body_is_rejected(service: ServiceProcess, body: bytes) -> None:
    for path in POSTS:
        assert post(service.url, path, body).status_code == 400, path


@pytest.mark.parametrize("path", POSTS)
def test_of_duplicate_fields_the_last_counts(service: ServiceProcess, path: str) -> None:
    body = json.dumps(VALID_BODIES[path])
    assert post(service.url, path, (body[:-1] + ', "model": 5}').encode()).status_code == 400
    assert post(service.url, path, ('{"model": 5, ' + body[1:]).encode()).status_code == 400


@pytest.mark.parametrize("path", POSTS)
def test_too_large_a_body_is_rejected(service: ServiceProcess, path: str) -> None:
    body = b'{"model": "' + b"x" * 33_600_000 + b'"}'
    assert post(service.url, path, body).status_code == 413


@pytest.mark.parametrize(
    ("declared", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON", 200),
        (None, 200),
        ("", 415),
        ("text/plain", 415),
        ("multipart/form-data", 415),
        ("application/x-www-form-urlencoded", 415),
        ("\xff\xfe", 415),
        ("a" * 5000, 415),
    ],
)
def test_other_content_types_than_json_are_rejected(
    service: ServiceProcess, declared: str | None, status: int
) -> None:
    headers = {} if declared is None else {"content-type": declared.encode("latin-1")}
    for path, body in VALID:
        raw = json.dumps(body).encode()
        assert post(service.url, path, raw, headers=headers).status_code == status, path


PATHS = [
    *POSTS, "/v1/models", "/v1/models/tiny-gen", "/v1/models/x%00y", "/v1/models/%F0%9F%98%80", "/v1/models/%ff",
    "/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/" + "x" * 5000, "/v1/models/", "/health", "/health/live",
    "/health/ready", "/openapi.json", "/", "//", "/status", "/page/none", "/page/%2e%2e/status", "/v1", "/v1/",
    "/v2/models", "/v1/chat/completions/", "/%00", "/metrics", "/docs", "/v1/completions/../../x",
    "/v1/messages/batches", "/v1/messages/",
    "/?" + "a=b&" * 1000, "/" + "a/" * 1000,
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_no_path_or_method_causes_a_server_error(service: ServiceProcess, method: str) -> None:
    with httpx.Client(trust_env=False, timeout=REQUEST_TIMEOUT_S) as client:
        for path in PATHS:
            url = httpx.URL(service.url).copy_with(raw_path=path.encode())
            answer = client.request(method, url, content=b"{}", headers=JSON)
            if answer.content:
                judge(answer)
            assert answer.status_code < 500, path
