import pytest

from domain.conversation import (
    AssistantMessage,
    FunctionCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from domain.errors import InvalidRequestError
from domain.openai.tool_turns import check_tool_turns

USER, SYSTEM, SAID = UserMessage(content="hi"), SystemMessage(content="s"), AssistantMessage(content="ok")


def calling(*ids: str) -> AssistantMessage:
    return AssistantMessage(
        tool_calls=[ToolCall(id=one, function=FunctionCall(name="f", arguments="{}")) for one in ids]
    )


def result(id_: str) -> ToolMessage:
    return ToolMessage(content="x", tool_call_id=id_)


def refusal(*messages: Message, **options) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        check_tool_turns(list(messages), **options)
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")
    return caught.value


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [USER, calling("a"), result("a")],
        [USER, calling("a"), result("a"), SAID, USER],
        [USER, calling("a", "b"), result("b"), result("a"), USER],
        [SYSTEM, USER, calling("a"), result("a"), calling("a", "c"), result("a"), result("c")],
        [USER, AssistantMessage(content="x", tool_calls=[]), USER],
        [USER, calling("a"), result("a"), result("a")],
    ],
    ids=["no tools", "result last", "goes on", "any order", "several turns", "no calls", "the same twice"],
)
def test_calls_with_results_are_accepted(messages):
    check_tool_turns(messages)


@pytest.mark.parametrize("before", [[], [USER], [SAID], [calling("a"), result("a"), USER]], ids=len)
def test_a_result_without_a_call_is_refused(before):
    error = refusal(*before, result("a"))
    assert error.param == f"messages[{len(before)}].role"
    assert "must be a response to a preceding message with 'tool_calls'" in error.message


def test_a_result_of_another_call_is_refused():
    error = refusal(USER, calling("a", "b"), result("a"), result("c"), result("b"))
    assert error.param == "messages[3].tool_call_id"
    assert "'c' is not among the ids of the preceding message's 'tool_calls': 'a', 'b'." in error.message


@pytest.mark.parametrize("after", [USER, SYSTEM, SAID, calling("d")], ids=["user", "system", "assistant", "call"])
def test_a_call_without_a_result_before_the_next_message_is_refused(after):
    error = refusal(USER, calling("a", "b", "c"), result("b"), after)
    assert error.param == "messages[1].tool_calls"
    assert "must be followed by tool messages responding to each 'tool_call_id'" in error.message
    assert error.message.endswith("did not have response messages: 'a', 'c'.")


def test_a_conversation_that_ends_with_a_call_is_refused_unless_it_continues():
    assert refusal(USER, calling("a")).param == "messages[1].tool_calls"
    check_tool_turns([USER, calling("a")], continues=True)
    check_tool_turns([calling("a")], continues=True)


def test_only_the_last_message_continues():
    assert refusal(USER, calling("a"), SAID, continues=True).param == "messages[1].tool_calls"
    assert refusal(USER, calling("a", "b"), result("a"), continues=True).param == "messages[1].tool_calls"


def test_many_or_long_ids_are_not_all_shown():
    error = refusal(USER, calling(*(f"call-{number}" for number in range(1000))))
    assert error.message.endswith("'call-9' and 990 more.")
    assert len(refusal(USER, calling("x" * 10_000)).message) < 400


def test_each_result_is_looked_up_without_a_search_through_all_calls():
    class Id(str):
        comparisons = 0
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Id.comparisons += 1
            return str.__eq__(self, other)

    # Two objects for each id, because Python takes the same object for equal without a comparison.
    ids, again = ([Id(f"call-{number}") for number in range(1000)] for _ in range(2))
    check_tool_turns([USER, calling(*ids), *map(result, again)])
    # A search would take half a million.
    assert Id.comparisons < 10 * len(ids)
