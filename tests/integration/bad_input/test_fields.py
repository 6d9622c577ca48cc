"""Unusual values in every field are either served or rejected.

The generated cases are derandomized, so that every run has the same ones.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.bad_input import cases
from tests.integration.bad_input.cases import ASKED, HELLO, POSTS, QUIET, TOOL, VALID, repeatable
from tests.integration.bad_input.judge import post
from tests.processes import ServiceProcess

pytestmark = pytest.mark.integration

CORRUPTED_EXAMPLES = 200
EXAMPLES = 50


def test_valid_requests_are_valid(service: ServiceProcess) -> None:
    for path, body in VALID:
        assert post(service.url, path, body).status_code == 200, (path, body)


@settings(repeatable, max_examples=CORRUPTED_EXAMPLES)
@given(corrupted=cases.corrupted())
def test_a_valid_request_with_one_thing_wrong(
    service: ServiceProcess, corrupted: tuple[str, dict[str, Any]]
) -> None:
    post(service.url, *corrupted)


@settings(repeatable, max_examples=EXAMPLES)
@given(path=st.sampled_from(POSTS), value=cases.odd_values)
def test_any_json(service: ServiceProcess, path: str, value: Any) -> None:
    assert post(service.url, path, value).status_code == 400


@settings(repeatable, max_examples=EXAMPLES)
@given(path=st.sampled_from(POSTS), body=st.binary(max_size=200))
def test_any_bytes(service: ServiceProcess, path: str, body: bytes) -> None:
    assert post(service.url, path, body).status_code == 400


@settings(repeatable, max_examples=EXAMPLES)
@given(
    field=st.sampled_from(["prompt", "stop", "bad_words", "suffix", "user", "guided_choice"]),
    text=cases.odd_texts,
    other=cases.odd_texts,
    stream=st.booleans(),
)
def test_odd_text_in_completions(service: ServiceProcess, field: str, text: str, other: str, stream: bool) -> None:
    value = [text] if field in ("bad_words", "guided_choice") else text
    post(service.url, "/v1/completions", ASKED | {"prompt": other, field: value, "stream": stream})


@settings(repeatable, max_examples=EXAMPLES)
@given(texts=st.lists(cases.odd_texts, min_size=1, max_size=4), name=cases.odd_texts)
def test_odd_text_elsewhere(service: ServiceProcess, texts: list[str], name: str) -> None:
    post(service.url, "/v1/embeddings", {"model": "tiny-embed", "input": texts})
    post(service.url, "/tokenize", {"prompt": name, "return_token_strs": True})
    messages = [{"role": "user", "content": texts[0], "name": name}]
    post(service.url, "/v1/chat/completions", ASKED | {"messages": messages})


@settings(repeatable, max_examples=3 * EXAMPLES)
@given(form=cases.odd_forms, stream=st.booleans())
def test_odd_forms(service: ServiceProcess, form: dict[str, Any], stream: bool) -> None:
    body = ASKED | {"prompt": "x", "structured_outputs": form, "stream": stream}
    post(service.url, "/v1/completions", body)


@settings(repeatable, max_examples=2 * EXAMPLES)
@given(schema=cases.odd_schemas, stream=st.booleans())
def test_odd_schemas(service: ServiceProcess, schema: dict[str, Any], stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = ASKED | QUIET | {"messages": HELLO, "response_format": form, "stream": stream}
    post(service.url, "/v1/chat/completions", body)


@settings(repeatable, max_examples=2 * EXAMPLES)
@given(tools=cases.odd_tools, choice=st.sampled_from(["auto", "required", "none"]), stream=st.booleans())
def test_odd_tools(service: ServiceProcess, tools: list[Any], choice: str, stream: bool) -> None:
    body = ASKED | QUIET | {"messages": HELLO, "tools": tools, "tool_choice": choice, "stream": stream}
    post(service.url, "/v1/chat/completions", body)


@settings(repeatable, max_examples=EXAMPLES)
@given(arguments=cases.odd_template_arguments, stream=st.booleans())
def test_odd_template_arguments(service: ServiceProcess, arguments: dict[str, Any], stream: bool) -> None:
    fields = {"messages": HELLO, "chat_template_kwargs": arguments}
    post(service.url, "/tokenize", fields)
    post(service.url, "/v1/chat/completions", ASKED | fields | {"stream": stream})


@settings(repeatable, max_examples=EXAMPLES)
@given(messages=cases.odd_histories, stream=st.booleans(), continues=st.booleans())
def test_odd_histories(service: ServiceProcess, messages: list[Any], stream: bool, continues: bool) -> None:
    fields = {"messages": messages, "tools": [TOOL]}
    if continues:
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    post(service.url, "/tokenize", fields)
    post(service.url, "/v1/chat/completions", ASKED | fields | {"stream": stream})
