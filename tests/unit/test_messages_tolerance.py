"""What Anthropic's Messages API ignores, how it says so, and that it can be strict instead."""

import json
import logging
from typing import Annotated, Any, Literal

import msgspec
import pytest

from app.http import ignored
from app.http.codec import BodyDecoder
from app.http.ignored import MAX_HEADER, MAX_KINDS, note_ignored
from app.http.response_headers import IGNORED
from domain.anthropic.messages import MessagesBody
from domain.errors import InvalidRequestError
from domain.tolerance import TOLERATES_UNKNOWN_TYPES
from tests.unit.messages_serving import HELLO, TOOL, error_of, message_of, messages_serving
from tests.unit.serving import CHAT, COUNT_TOKENS, MESSAGES_BODIES

WEB_SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
BASH = {"type": "bash_20250124", "name": "bash"}
HEADER = "x-memoria-ignored"
decoder = BodyDecoder(MessagesBody, is_tolerant=True)


@pytest.fixture(scope="module")
async def lenient():
    async with messages_serving() as running:
        yield running


@pytest.fixture(scope="module")
async def strict():
    async with messages_serving(settings={"STRICT_TOOLS": "true"}) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_logged(monkeypatch):
    monkeypatch.setattr(ignored, "_logged", set())


def body(**more: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 1, "messages": HELLO, **more}).encode()


async def test_unknown_tools_and_fields_are_ignored_and_named(lenient):
    block = {"type": "text", "text": "x", "shade": "red"}
    response = await lenient.message(
        tools=[BASH, TOOL, WEB_SEARCH],
        messages=[{"role": "user", "content": [block], "mood": 1}],
        novelty={"id": "t"},
        thinking={"type": "adaptive", "depth": 3},
    )
    message_of(response)
    assert response.headers[HEADER].split(", ") == [
        "messages[0].content[0].shade",
        "messages[0].mood",
        "tools[0] (bash_20250124)",
        "tools[2] (web_search_20250305)",
        "novelty",
        "thinking.depth",
    ]
    assert [tool.name for tool in lenient.seen.prompt.tools] == ["look"]


async def test_what_is_known_makes_no_header(lenient):
    assert HEADER not in (await lenient.message(tools=[TOOL])).headers


async def test_streams_errors_and_counts_say_what_was_ignored_too(lenient):
    for response in (
        await lenient.message(zz_new=1, stream=True),
        await lenient.message(zz_new=1, model="none"),
        await lenient.http.post(COUNT_TOKENS, json=MESSAGES_BODIES[COUNT_TOKENS] | {"zz_new": 1}),
    ):
        assert response.headers[HEADER] == "zz_new"


@pytest.mark.parametrize("choice", [{"type": "tool", "name": "web_search"}, {"type": "any"}])
async def test_a_tool_that_was_ignored_can_not_be_required(lenient, choice):
    response = await lenient.message(tools=[WEB_SEARCH], tool_choice=choice)
    assert "other types are not supported" in error_of(response, 400)["message"]
    assert response.headers[HEADER] == "tools[0] (web_search_20250305)"


async def test_without_tools_that_remain_the_model_calls_none(lenient):
    message_of(await lenient.message(tools=[WEB_SEARCH], tool_choice={"type": "auto"}))
    assert lenient.seen.prompt.tools == []


@pytest.mark.parametrize(
    "change", [{"tools": [TOOL, WEB_SEARCH]}, {"zz_new": 1}, {"thinking": {"type": "adaptive", "zz": 1}}]
)
async def test_with_strict_tools_it_is_refused(strict, change):
    response = await strict.message(**change)
    assert error_of(response, 400)["type"] == "invalid_request_error"
    assert HEADER not in response.headers


async def test_unknown_fields_alone_may_be_allowed():
    settings = {"STRICT_TOOLS": "true", "ALLOW_UNKNOWN_FIELDS": "true"}
    async with messages_serving(settings=settings) as api:
        message_of(await api.message(zz_new=1))
        error_of(await api.message(tools=[WEB_SEARCH]), 400)


async def test_chat_stays_strict(lenient):
    chat = {"model": "fake-write", "messages": [{"role": "user", "content": "x"}]}
    for change in ({"zz_new": 1}, {"tools": [{"type": "custom", "custom": {"name": "x"}}]}):
        response = await lenient.http.post(CHAT, json=chat | change)
        assert response.status_code == 400
        assert HEADER not in response.headers


# The log


async def test_each_kind_is_logged_once_and_without_content(lenient, caplog):
    with caplog.at_level(logging.WARNING):
        for text in ("a secret", "another secret"):
            await lenient.message(tools=[TOOL, WEB_SEARCH], zz_new=text)
            await lenient.message(tools=[WEB_SEARCH])
    assert [record.getMessage().split(" (logged")[0] for record in caplog.records] == [
        "ignored in requests to /v1/messages: tools[] (web_search_20250305)",
        "ignored in requests to /v1/messages: zz_new",
    ]
    assert "secret" not in caplog.text


def test_a_client_can_not_fill_the_log(caplog):
    scope: Any = {"path": "/v1/messages", "state": {}}
    with caplog.at_level(logging.WARNING):
        for number in range(3 * MAX_KINDS):
            note_ignored(scope, [f"field_{number}"])
    assert len(caplog.records) == MAX_KINDS


@pytest.mark.parametrize(
    "names",
    [["x" * 10_000], ["é\r\nset-cookie: a\x00"], [f"f{number}" for number in range(10_000)], [""], ["\ud800"]],
    ids=["long", "control characters", "many", "empty", "surrogate"],
)
def test_the_header_is_short_and_printable(names):
    scope: Any = {"path": "/v1/messages", "state": {}}
    note_ignored(scope, names)
    value = scope["state"][IGNORED]
    assert len(value) <= MAX_HEADER + len(", ...")
    assert all(0x20 <= byte < 0x7F for byte in value)


# The decoder


def test_a_known_body_is_decoded_at_once(monkeypatch):
    monkeypatch.setattr(msgspec.json, "decode", None)
    decoded, dropped = decoder.decode_tolerantly(body(tools=[TOOL]))
    assert (decoded.model, dropped) == ("m", [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": "x"},
        {"tools": [{"type": "custom"}]},
        {"tools": [1]},
        {"tools": 1},
        {"tools": [{"type": None, "name": "x"}]},
        {"tools": [{"type": 5}]},
    ],
)
@pytest.mark.parametrize("more", [{}, {"zz_new": 1}])
def test_other_mistakes_are_refused_as_they_are(wrong, more):
    with pytest.raises(InvalidRequestError) as caught:
        decoder.decode_tolerantly(body(**wrong, **more))
    assert caught.value.param.startswith(next(iter(wrong)))


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"name": "look"}, "tools[3].input_schema"),
        ({**TOOL, "name": "a b"}, "tools[3].name"),
        ({**TOOL, "strict": "yes", "shade": "red"}, "tools[3].strict"),
    ],
    ids=["missing", "invalid", "with an unknown field"],
)
def test_a_mistake_is_named_by_its_place_in_the_body_as_sent(wrong, param):
    with pytest.raises(InvalidRequestError) as caught:
        decoder.decode_tolerantly(body(tools=[WEB_SEARCH, TOOL, BASH, wrong, WEB_SEARCH]))
    assert caught.value.param == param
    assert f"'{param}'" in caught.value.message


def test_only_marked_lists_lose_members():
    with pytest.raises(InvalidRequestError):
        decoder.decode_tolerantly(body(system=[{"type": "video"}]))


class First(msgspec.Struct, tag_field="type", tag="first", forbid_unknown_fields=True):
    x: int = 0


class Second(msgspec.Struct, tag_field="type", tag="second", forbid_unknown_fields=True):
    y: int = 0


class Plain(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["plain", "simple"] | None = None


class Tagged(msgspec.Struct, forbid_unknown_fields=True):
    tools: Annotated[list[First | Second], TOLERATES_UNKNOWN_TYPES] | None = None


class Named(msgspec.Struct, forbid_unknown_fields=True):
    tools: Annotated[list[Plain], TOLERATES_UNKNOWN_TYPES] | None = None


class Group(Tagged, forbid_unknown_fields=True):
    type: Literal["group"] = "group"


class Groups(msgspec.Struct, forbid_unknown_fields=True):
    groups: Annotated[list[Group], TOLERATES_UNKNOWN_TYPES]


def test_a_mistake_in_a_list_within_a_list_is_named_by_its_place_too():
    group = {"tools": [{"type": "other"}, {"type": "first"}, {"type": "second", "y": "1"}]}
    content = json.dumps({"groups": [{"type": "other"}, group]}).encode()
    with pytest.raises(InvalidRequestError) as caught:
        BodyDecoder(Groups, is_tolerant=True).decode_tolerantly(content)
    assert caught.value.param == "groups[1].tools[2].y"


def test_members_are_known_by_tag_or_by_their_field():
    content = json.dumps({"tools": [{"type": "first", "z": 1}, {"type": "plain"}, {"type": "second"}]}).encode()
    tagged, dropped = BodyDecoder(Tagged, is_tolerant=True).decode_tolerantly(content)
    assert (tagged.tools, dropped) == ([First(), Second()], ["tools[0].z", "tools[1] (plain)"])
    named, dropped = BodyDecoder(Named, is_tolerant=True).decode_tolerantly(content)
    assert (named.tools, dropped) == ([Plain(type="plain")], ["tools[0] (first)", "tools[2] (second)"])
