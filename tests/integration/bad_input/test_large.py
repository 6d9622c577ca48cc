"""Large or expensive requests are rejected immediately, or served without blocking others."""

import json
import threading
from typing import Any

import httpx
import pytest

from tests.integration.bad_input.cases import ASKED, CALL, HELLO
from tests.integration.bad_input.judge import post
from tests.processes import ServiceProcess

pytestmark = pytest.mark.integration

# Silence after which a load balancer would consider the service down.
SILENCE_S = 20
LONG_ROW = "[a-z]?" * 500
FORMS = {
    "a row of optional parts": {"regex": ".?" * 500},
    "a longer one": {"regex": "a?" * 20_000},
    "empty alternatives": {"regex": "(a|)" * 400},
    "in a rule": {"grammar": f"root ::= {LONG_ROW}"},
    "in Lark": {"grammar": f"start: {LONG_ROW}"},
    "in a pattern": {"json": {"type": "string", "pattern": "a?" * 2000}},
    "in a key": {"json": json.dumps({"type": "object", "patternProperties": {"a?" * 2000: {}}})},
    "in a tag": {"structural_tag": json.dumps({"type": "regex", "pattern": "a?" * 2000})},
    "one beginning": {"choice": ["a" * 20_000 + "b", "a" * 20_000 + "c"]},
    "one beginning in a schema": {"json": {"enum": ["a" * 20_000 + "b", "a" * 20_000 + "c"]}},
    "optional properties": {"json": {"type": "object", "properties": {f"p{i}": {} for i in range(2000)}}},
    "counted properties": {
        "json": {"type": "object", "minProperties": 9, "properties": {f"p{i}": {} for i in range(200)}}
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_expensive_grammars_are_rejected_immediately(service: ServiceProcess, form: dict[str, Any]) -> None:
    answer = post(service.url, "/v1/completions", ASKED | {"prompt": "x", "structured_outputs": form})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "structured_outputs"
    assert "too long to compile" in answer.json()["error"]["message"]


DOUBLING = 'root ::= r0\nr40 ::= "x"' + "".join(f"\nr{i} ::= r{i + 1} r{i + 1}" for i in range(40))
LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "a thousand choices": ("/v1/completions", {"guided_choice": [f"choice {i}" for i in range(1000)]}),
    "a long expression": ("/v1/completions", {"guided_regex": "a" * 50_000}),
    "nested repetition": ("/v1/completions", {"guided_regex": "((a+)+)+b"}),
    "many repetitions": ("/v1/completions", {"guided_regex": "(a{1,1000}){1,1000}"}),
    "deep brackets": ("/v1/completions", {"guided_regex": "(" * 20_000 + "a" + ")" * 20_000}),
    "a doubling grammar": ("/v1/completions", {"guided_grammar": DOUBLING}),
    "a thousand bad words": ("/v1/completions", {"bad_words": [f"word {i}" for i in range(1000)]}),
    "long stops": ("/v1/completions", {"stop": ["a" * 50_000] * 4}),
    "bias for all": ("/v1/completions", {"logit_bias": {str(i): 1.0 for i in range(512)}}),
    "bias for more than all": ("/v1/completions", {"logit_bias": {str(i): 1.0 for i in range(100_000)}}),
    "many choices": ("/v1/completions", {"n": 128, "temperature": 1}),
    "many choices, streamed": ("/v1/completions", {"n": 128, "temperature": 1, "stream": True, "logprobs": 5}),
    "many prompts": ("/v1/completions", {"prompt": ["x"] * 500, "max_tokens": 1}),
    "too many prompts": ("/v1/completions", {"prompt": ["x"] * 100_000}),
    "a long prompt": ("/v1/completions", {"prompt": "word " * 200_000}),
    "a long name": ("/v1/completions", {"x" * 1_000_000: 1}),
    "a long model": ("/v1/completions", {"model": "x" * 1_000_000}),
    "thousands of messages": ("/v1/chat/completions", {"messages": HELLO * 5000}),
    "thousands of calls": (
        "/v1/chat/completions",
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL] * 5000}]},
    ),
    "chat with many choices": ("/v1/chat/completions", {"messages": HELLO, "n": 128, "stream": True}),
    "as many tools as may be": (
        "/v1/chat/completions",
        {"messages": HELLO, "tool_choice": "required", "tools": [
            {"type": "function", "function": {"name": f"tool_{i}"}} for i in range(128)
        ]},
    ),
    "many texts": ("/v1/embeddings", {"model": "tiny-embed", "input": ["x"] * 2048}),
    "too many tokens": ("/v1/embeddings", {"model": "tiny-embed", "input": [[1] * 200] * 2000}),
    "a long text": ("/v1/embeddings", {"model": "tiny-embed", "input": "word " * 200_000}),
    "a long text to count": ("/tokenize", {"prompt": "word " * 200_000, "return_token_strs": True}),
    "many tokens": ("/detokenize", {"tokens": [5] * 1_000_000}),
}  # fmt: skip


@pytest.mark.parametrize(("path", "fields"), LARGE.values(), ids=LARGE)
def test_large_requests_do_not_block_the_service(
    service: ServiceProcess, path: str, fields: dict[str, Any]
) -> None:
    base = ASKED if path.startswith("/v1/c") else {}
    if path == "/v1/completions":
        base = base | {"prompt": "x"}
    with Pulse(service.url) as pulse:
        post(service.url, path, base | fields)
    assert pulse.beats > 0, "the service keeps responding"
    assert pulse.misses == 0


class Pulse:
    """Sends liveness requests continuously and counts successes and failures."""

    def __init__(self, url: str) -> None:
        self.beats = 0
        self.misses = 0
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=SILENCE_S) as client:
            while True:
                try:
                    client.get(f"{self._url}/health/live").raise_for_status()
                    self.beats += 1
                except httpx.HTTPError:
                    self.misses += 1
                if self._over.wait(0.02):
                    return
