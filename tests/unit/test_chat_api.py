"""Chat, tokens, comments in streams, and bodies that nobody should send, through the application."""

import asyncio
import json

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.vllm.http.backend import VLLMHTTPBackend
from app.bootstrap import build_app
from app.settings import load_settings
from domain.errors import BackendFailedError, BackendUnavailableError
from domain.roles import Role
from tests.fakes import CACHE_BLOCK, FakeBackend
from tests.unit.serving import (
    BODIES,
    CHAT,
    COMPLETE,
    DETOKENIZE,
    EMBED,
    NEVER_S,
    SILENT,
    TOKENIZE,
    Api,
    Leaving,
    chunks_of,
    error_of,
    left,
    serving,
)
from tests.unit.waiting import until

TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {}}, "required": ["a"]}}},
    {"type": "function", "function": {"name": "g"}},
]
NAMED = {"type": "function", "function": {"name": "g"}}


def joined(chunks: list[dict]) -> dict[int, dict]:
    """What a client makes of a stream: each choice as a whole answer has it."""
    choices: dict[int, dict] = {}
    for part in (part for chunk in chunks for part in chunk["choices"]):
        new = {"role": None, "content": "", "reasoning_content": "", "calls": {}, "logprobs": [], "reason": None}
        own = choices.setdefault(part["index"], new)
        gained = part["delta"]
        own["role"] = gained.get("role") or own["role"]
        own["content"] += gained.get("content") or ""
        own["reasoning_content"] += gained.get("reasoning_content", "")
        for call in gained.get("tool_calls", []):
            known = own["calls"].setdefault(call["index"], {"id": call.get("id"), "name": "", "arguments": ""})
            known["name"] += call["function"].get("name", "")
            known["arguments"] += call["function"]["arguments"]
        own["logprobs"] += (part["logprobs"] or {"content": []})["content"]
        own["reason"] = part["finish_reason"] or own["reason"]
    return choices


def as_joined(choice: dict) -> dict:
    message = choice["message"]
    return {
        "role": message["role"],
        "content": message["content"] or "",
        "reasoning_content": message.get("reasoning_content", ""),
        "calls": {
            number: {"id": call["id"], **call["function"]}
            for number, call in enumerate(message.get("tool_calls", []))
        },
        "logprobs": (choice["logprobs"] or {"content": []})["content"],
        "reason": choice["finish_reason"],
    }


# Chat, whole


async def test_an_answer_is_whole_by_default(api):
    response = await api.chat()
    answer = response.json()
    assert response.status_code == 200
    assert (answer["object"], answer["model"]) == ("chat.completion", "fake-write")
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    assert len(choice["message"]["content"]) == 4
    usage = answer["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4


async def test_an_alias_is_answered_with_the_models_own_name(api):
    response = await api.chat(model="gpt-3.5-turbo-instruct")
    assert (response.status_code, response.json()["model"]) == (200, "fake-write")


async def test_every_answer_has_an_id_of_its_own(api):
    ids = {(await api.chat()).json()["id"] for _ in range(3)}
    assert len(ids) == 3


async def test_thinking_is_told_apart(api):
    answer = (await api.chat(chat_template_kwargs=None)).json()
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert len(message["reasoning_content"]) == 4
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}


async def test_thinking_that_is_not_wanted_is_not_told(api):
    answer = (await api.chat(chat_template_kwargs=None, include_reasoning=False)).json()
    assert "reasoning_content" not in answer["choices"][0]["message"]
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}


@pytest.mark.parametrize(
    ("choice", "name", "reason"), [("required", "f", "tool_calls"), (NAMED, "g", "stop")], ids=str
)
async def test_a_tool_is_called(api, choice, name, reason):
    answer = (await api.chat(tools=TOOLS, tool_choice=choice, max_tokens=None)).json()
    (told,) = answer["choices"]
    (call,) = told["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", name)
    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    assert (told["finish_reason"], told["message"]["content"]) == (reason, None)


async def test_a_tool_that_must_not_be_called_is_not_told_to_the_engine(api):
    await api.chat(tools=TOOLS, tool_choice="none")
    assert api.writer.seen[-1].prompt.tools == []


@pytest.mark.parametrize("count", [0, 2])
async def test_so_many_likeliest_tokens_are_told_as_asked_for(api, count):
    answer = (await api.chat(logprobs=True, top_logprobs=count)).json()
    told = answer["choices"][0]["logprobs"]["content"]
    assert [len(item["top_logprobs"]) for item in told] == [count] * 4


async def test_a_form_is_followed(api):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = (await api.chat(response_format=form, max_tokens=None)).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"a": 0}


async def test_an_answer_and_what_came_of_its_call_can_be_sent_back(api):
    asked = {"role": "user", "content": "hi"}
    answer = (await api.chat(tools=TOOLS, tool_choice="required", max_tokens=None)).json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": "1"}
    response = await api.chat(messages=[asked, answer, result], tools=TOOLS)
    assert response.status_code == 200


async def test_an_answer_of_nothing_but_thoughts_can_be_sent_back(api):
    asked = {"role": "user", "content": "hi"}
    answer = (await api.chat(chat_template_kwargs=None)).json()["choices"][0]["message"]
    response = await api.chat(messages=[asked, answer, asked])
    assert response.status_code == 200, response.text


# Chat, streamed


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 2},
        {"n": 3, "temperature": 1, "seed": 5},
        {"logprobs": True, "top_logprobs": 2},
        {"chat_template_kwargs": None},
        {"chat_template_kwargs": None, "include_reasoning": False},
        {"tools": TOOLS, "tool_choice": "required", "max_tokens": None},
        {"tools": TOOLS, "tool_choice": NAMED, "max_tokens": None},
        {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": None},
        {"stop": "e", "max_tokens": 30},
    ],
    ids=str,
)
async def test_a_stream_joined_is_the_whole_answer(api, more):
    whole = (await api.chat(**more)).json()
    chunks = chunks_of(await api.chat(stream=True, **more))
    assert joined(chunks) == {choice["index"]: as_joined(choice) for choice in whole["choices"]}


async def test_a_stream_begins_with_the_role_and_ends_with_the_reason(api):
    response = await api.chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = chunks_of(response)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert len({(one["id"], one["created"], one["model"], one["object"]) for one in chunks}) == 1
    assert all("usage" not in one for one in chunks)


async def test_usage_comes_last_where_it_is_asked_for(api):
    response = await api.chat(stream=True, stream_options={"include_usage": True})
    *chunks, last = chunks_of(response)
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == (await api.chat()).json()["usage"]


async def test_usage_has_the_cached_tokens(api):
    text = "x" * 150
    assert (await api.chat(text)).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    again = (await api.chat(text)).json()["usage"]["prompt_tokens_details"]
    assert again == {"cached_tokens": CACHE_BLOCK, "audio_tokens": 0}


# What fails


async def test_a_conversation_that_is_too_long_names_messages(api):
    for stream in (False, True):
        response = await api.chat("x" * 300, stream=stream)
        error = error_of(response)
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        assert error["param"] == "messages"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_that_does_not_fit_is_rejected(api, name, stream):
    for wanted in (254, 10_000_000):
        response = await api.chat(stream=stream, **{"max_tokens": None, name: wanted})
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (
            400,
            "context_length_exceeded",
            "messages",
        )
        assert str(wanted) in error["message"]
    if name == "max_tokens":
        assert error_of(await api.complete("ab", max_tokens=255, stream=stream))["param"] == "prompt"


async def test_an_answer_longer_than_the_context_never_waits_for_the_engine(api):
    before = len(api.writer.seen)
    assert (await api.chat(max_tokens=10_000_000)).status_code == 400
    assert (await api.complete(max_tokens=10_000_000, stream=True)).status_code == 400
    assert len(api.writer.seen) == before


async def test_a_model_of_the_other_endpoint_is_told_as_such(api):
    response = await api.chat(model="fake-embed")
    assert response.status_code == 404
    assert "v1/chat/completions endpoint" in error_of(response)["message"]


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
async def test_a_failure_after_the_first_chunk_is_an_event_and_no_end_mark_follows(api, path):
    api.writer.fail_next = BackendFailedError("Broken.")
    response = await api.post(path, stream=True)
    assert response.status_code == 200
    assert json.loads(response.text.split("\n\n")[-2].removeprefix("data: ")) == {
        "error": {"message": "Broken.", "type": "server_error", "param": None, "code": None}
    }
    assert "[DONE]" not in response.text
    assert api.writer.running == 0


async def test_an_unforeseen_failure_in_a_stream_tells_nothing(api):
    api.writer.fail_next = KeyError("secret")
    response = await api.chat(stream=True)
    assert "secret" not in response.text
    assert '"error"' in response.text


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
async def test_while_the_engine_starts_a_stream_is_refused_with_its_status(path):
    starting = Api()
    starting.writer.fail_start = [BackendUnavailableError("Out of reach.")] * 1000
    async with serving(starting) as api:
        response = await api.post(path, stream=True)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", [TOKENIZE, DETOKENIZE])
async def test_while_the_engine_starts_there_are_no_tokens(path):
    starting = Api()
    starting.writer.fail_start = [BackendUnavailableError("Out of reach.")] * 1000
    async with serving(starting) as api:
        assert (await api.post(path)).status_code == 503


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_a_chat_ends_it(api, stream):
    await left(api, api.writer, CHAT, BODIES[CHAT] | {"stream": stream})
    assert api.writer.running == 0


async def test_a_client_that_leaves_in_the_middle_of_a_chat_ends_it(api):
    client = Leaving(BODIES[CHAT] | {"stream": True, "max_tokens": 9})
    call = asyncio.create_task(client.call(api.app, CHAT))
    await until(lambda: len(client.sent) > 3)
    api.writer.delay_s = NEVER_S
    client.leave.set()
    await call
    assert api.writer.running == 0
    assert not any(b"[DONE]" in message.get("body", b"") for message in client.sent)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_no_task_is_left_behind(api, path, stream):
    before = asyncio.all_tasks()
    await api.post(path, **({"stream": stream} if path in (CHAT, COMPLETE) else {}))
    await api.post(path, model="nobody")
    await until(lambda: asyncio.all_tasks() <= before)


# Comments


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
async def test_a_slow_engine_gets_comments_sent_meanwhile(path):
    async with serving(Api(keep_alive_s=0.01)) as api:
        await until_ready(api)
        api.writer.delay_s = 0.035
        response = await api.post(path, stream=True, max_tokens=2)
        *events, end, rest = response.text.split("\n\n")
        comments = [event for event in events if event.startswith(":")]
        assert comments == [": keep-alive"] * len(comments)
        assert len(comments) >= 3
        assert events[0] in comments, "the answer began before the first chunk"
        assert (end, rest) == ("data: [DONE]", "")
        chunks = [json.loads(event.removeprefix("data: ")) for event in events if event not in comments]
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_a_refusal_that_comes_late_is_an_event():
    async with serving(Api(keep_alive_s=0.01)) as api:
        await until_ready(api)
        api.writer.delay_s = 0.03
        api.writer.fail_next = BackendFailedError("Broken.")
        response = await api.chat(stream=True)
        assert response.status_code == 200
        assert "Broken." in response.text.split("\n\n")[-2]
        assert "[DONE]" not in response.text


async def test_a_refusal_that_comes_soon_keeps_its_status():
    async with serving(Api(keep_alive_s=5)) as api:
        await until_ready(api)
        assert (await api.chat("x" * 300, stream=True)).status_code == 400


async def test_without_a_time_nothing_is_sent_meanwhile():
    async with serving(Api(keep_alive_s=0)) as api:
        await until_ready(api)
        api.writer.delay_s = 0.02
        assert ": keep-alive" not in (await api.chat(stream=True)).text


async def until_ready(api: Api) -> None:
    await until(lambda: api.is_ready)


# Candidates, suffixes


async def test_best_of_answers_with_so_many_as_asked_for_and_counts_them_all(api):
    answer = (await api.complete("ab", n=2, best_of=5, temperature=1, seed=3)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, 20, 22)
    assert api.writer.seen[-1].sampling.n == 5


async def test_best_of_several_prompts_numbers_the_choices_through(api):
    answer = (await api.complete(["ab", "c"], n=2, best_of=3, temperature=1, logprobs=1, echo=True)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [choice["text"][0] for choice in answer["choices"]] == ["a", "a", "c", "c"]
    assert all(choice["logprobs"]["tokens"] for choice in answer["choices"])


async def test_a_suffix_reaches_the_engine(api):
    assert (await api.complete("ab", suffix="cd")).status_code == 200
    assert api.writer.seen[-1].suffix == "cd"


# Tokens


async def test_a_text_becomes_tokens_and_a_text_again(api):
    answer = (await api.post(TOKENIZE, prompt="ab", return_token_strs=True)).json()
    assert answer == {"count": 2, "max_model_len": 256, "tokens": [97, 98], "token_strs": ["a", "b"]}
    again = (await api.post(DETOKENIZE, tokens=answer["tokens"])).json()
    assert again == {"prompt": "ab"}


@pytest.mark.parametrize("model", [None, "fake-write", "fake-embed", "text-embedding-3-small", "org/name"])
async def test_tokens_are_told_of_either_model(api, model):
    for path in (TOKENIZE, DETOKENIZE):
        assert (await api.post(path, model=model)).status_code == 200


async def test_a_conversation_becomes_the_tokens_of_its_chat(api):
    talk = {"messages": [{"role": "user", "content": "hi"}], "tools": TOOLS}
    counted = (await api.http.post(TOKENIZE, json=talk)).json()["count"]
    answered = (await api.chat(tools=TOOLS)).json()["usage"]["prompt_tokens"]
    assert counted == answered


@pytest.mark.parametrize("path", [TOKENIZE, DETOKENIZE])
async def test_tokens_of_a_model_that_is_not_served_are_not_told(api, path):
    response = await api.post(path, model="gpt")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


async def test_tokens_that_the_model_does_not_have_are_no_text(api):
    response = await api.post(DETOKENIZE, tokens=[5000])
    assert response.status_code == 400
    assert error_of(response)["param"] == "tokens"


# What nobody should send: it is refused, and never a failure of the service

ODD_BODIES = {
    "nothing": b"",
    "no object": b"[]",
    "no json": b"{",
    "no utf-8": b'{"model": "\xff"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "half a surrogate pair": b'{"model": "\\ud800"}',
    "half a pair as a name": b'{"\\udc00": 1}',
    "NaN": b'{"model": NaN}',
    "infinite": b'{"model": 1e999}',
    "deep arrays": b'{"model": ' + b"[" * 2000,
    "deep objects": b'{"model": ' + b'{"a":' * 600 + b"1" + b"}" * 600 + b"}",
    "twice": b'{"model": "a", "model": 5}',
    "nul": b'{"model": "\\u0000"}',
    "a long number": b'{"model": ' + b"9" * 4000 + b"}",
    "a long name": b'{"' + b"z" * 4000 + b'": 1}',
    "a name with quotes": b'{"\\"`\\n` - at `$.x`": 1}',
    "utf-16": '{"model": "m"}'.encode("utf-16"),
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("odd", ODD_BODIES)
async def test_an_odd_body_is_refused(api, path, odd):
    response = await api.http.post(path, content=ODD_BODIES[odd])
    assert response.status_code in (400, 404)
    assert error_of(response)["type"] == "invalid_request_error"


ODD_VALUES = [
    b"NaN",
    b'"\\ud800"',
    b"1e999",
    b"-0",
    b"[[]]",
    b'"\\u0000"',
    b"{}",
    b"9" * 400,
    b"-1",
    b'""',
    b"[null]",
]
ODD_VALUES += [b"true", b"1.5", b'{"type": null}', b'{"a": {"b": []}}', b'["", 1]', b'[{"type": "text"}]']
FIELDS = {
    path: [*body, *more]
    for (path, body), more in zip(
        BODIES.items(),
        [
            ["dimensions", "encoding_format", "truncate_prompt_tokens"],
            [
                "stop",
                "logit_bias",
                "best_of",
                "suffix",
                "logprobs",
                "structured_outputs",
                "guided_choice",
                "stream",
            ],
            [
                "tools",
                "tool_choice",
                "response_format",
                "chat_template_kwargs",
                "metadata",
                "logprobs",
                "documents",
            ],
            ["messages", "tools", "chat_template_kwargs"],
            ["tokens"],
            *[["top_n", "max_tokens_per_doc", "instruction"]] * 3,
            *[["queries", "truncate_prompt_tokens"]] * 2,
        ],
        strict=True,
    )
}


@pytest.mark.parametrize(("path", "field"), [(path, field) for path in BODIES for field in FIELDS[path]])
async def test_an_odd_value_is_no_failure_of_the_service(api, path, field):
    for odd in ODD_VALUES:
        rest = json.dumps({name: value for name, value in BODIES[path].items() if name != field})[1:]
        body = b'{"%s": %s, %s' % (field.encode(), odd, rest.encode())
        response = await api.http.post(path, content=body)
        assert response.status_code < 500, body


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 5) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "function", "name", "text", "role", "content"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("path", [CHAT, TOKENIZE])
async def test_no_values_are_a_failure_of_the_service(api, path):
    bodies: list[dict] = []

    @given(st.dictionaries(st.sampled_from(FIELDS[path]), json_values, min_size=1, max_size=2))
    @settings(max_examples=25, deadline=None)
    def collect(odd: dict) -> None:
        bodies.append(BODIES[path] | odd)

    collect()
    for body in bodies:
        assert (await api.http.post(path, json=body)).status_code < 500, body


def nested(form: str, depth: int) -> bytes:
    deep = '{"a":' * depth + "1" + "}" * depth
    return json.dumps(BODIES[CHAT] | SILENT)[:-1].encode() + b", " + form.replace("DEEP", deep).encode() + b"}"


async def bodies_at_the_edge(http: httpx.AsyncClient, form: str) -> list[int]:
    """Statuses for the deepest bodies that can still be read, and some beyond."""
    readable, unreadable = 1, 1100
    while unreadable - readable > 1:
        middle = (readable + unreadable) // 2
        if "parse the JSON" in (await http.post(CHAT, content=nested(form, middle))).text:
            unreadable = middle
        else:
            readable = middle
    depths = range(readable - 24, readable + 4)
    return [(await http.post(CHAT, content=nested(form, depth))).status_code for depth in depths]


DEEP_FORMS = [
    '"guided_json": DEEP',
    '"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": DEEP}}',
    '"tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}], "tool_choice": "none"',
    '"documents": null, "prediction": DEEP',
]


@pytest.mark.parametrize("form", DEEP_FORMS)
async def test_no_depth_of_nesting_is_a_failure_of_the_service(form):
    async with serving(Api(max_body_bytes=2**20)) as api:
        await until_ready(api)
        assert max(await bodies_at_the_edge(api.http, form)) < 500


def vllm_server(request: httpx.Request) -> httpx.Response:
    if request.method == "GET":
        return httpx.Response(200, json={"data": [{"id": "fake-write", "max_model_len": 256}]})
    choice = {"index": 0, "text": "x", "message": {"content": "x"}, "finish_reason": "stop"}
    return httpx.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})


@pytest.mark.parametrize("form", [*DEEP_FORMS, '"documents": null, "chat_template_kwargs": DEEP'])
async def test_nor_is_it_with_a_server_behind(form):
    server = VLLMHTTPBackend(
        role=Role.GENERATE, base_url="http://server", transport=httpx.MockTransport(vllm_server)
    )
    backends = {Role.EMBED: ("fake-embed", FakeBackend(Role.EMBED)), Role.GENERATE: ("fake-write", server)}
    app = build_app(load_settings({"METRICS": "false", "MAX_BODY_BYTES": str(2**20)}), backends)
    service = app.service
    service.start()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http:
        await until(lambda: service.health().status == "ok")
        statuses = await bodies_at_the_edge(http, form)
    await service.stop()
    assert max(statuses) < 500


@pytest.mark.parametrize("path", [EMBED, COMPLETE, CHAT])
async def test_what_is_refused_is_not_repeated_at_length(api, path):
    long = "x" * 3000
    for odd in ({"model": long}, {"encoding_format": long}, {"tool_choice": long}, {long: 1}):
        response = await api.post(path, **odd)
        assert response.status_code in (400, 404)
        assert len(response.content) < 1000
