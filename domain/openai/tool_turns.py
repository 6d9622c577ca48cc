"""Checks that tool calls and their results belong together, in any API whose requests become a list of messages.

Source: the behavior of OpenAI's service. It requires that the results of an assistant message's calls follow it,
one for each call, before any other message.
"""

from collections.abc import Callable, Sequence

from domain.conversation import AssistantMessage, Message, ToolMessage
from domain.errors import InvalidRequestError

MAX_SHOWN_IDS = 10
"""Ids that an error message lists."""


def message_param(position: int) -> str:
    """The request field of a message in chat completions."""
    return f"messages[{position}]"


def check_tool_turns(
    messages: Sequence[Message],
    *,
    continues: bool = False,
    param_of: Callable[[int], str] = message_param,
) -> None:
    """Raise InvalidRequestError for a result without its call, and for a call without its result.

    Args:
        messages: the conversation.
        continues: whether the model continues the last message, whose calls then need no results yet.
        param_of: the request field of the message at a position.
    """
    calls: list[str] = []
    caller = 0
    answered: set[str] = set()
    for position, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            _check_result(message, calls, param_of(position))
            answered.add(message.tool_call_id)
            continue
        _check_answered(calls, answered, param_of(caller))
        calls, caller, answered = [], position, set()
        if isinstance(message, AssistantMessage):
            calls = [call.id for call in message.tool_calls or []]
    if not (continues and caller == len(messages) - 1):
        _check_answered(calls, answered, param_of(caller))


def _check_result(message: ToolMessage, calls: list[str], param: str) -> None:
    if not calls:
        raise InvalidRequestError(
            f"Invalid '{param}': messages with role 'tool' must be a response to a preceding message with "
            "'tool_calls'.",
            param=f"{param}.role",
            code="invalid_value",
        )
    if message.tool_call_id not in calls:
        raise InvalidRequestError(
            f"Invalid '{param}.tool_call_id': '{message.tool_call_id[:100]}' is not among the ids of the "
            f"preceding message's 'tool_calls': {_listed(calls)}.",
            param=f"{param}.tool_call_id",
            code="invalid_value",
        )


def _check_answered(calls: list[str], answered: set[str], param: str) -> None:
    missing = [call for call in calls if call not in answered]
    if missing:
        raise InvalidRequestError(
            f"Invalid '{param}': an assistant message with 'tool_calls' must be followed by tool messages "
            "responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            f"{_listed(missing)}.",
            param=f"{param}.tool_calls",
            code="invalid_value",
        )


def _listed(ids: list[str]) -> str:
    shown = ", ".join(f"'{one[:100]}'" for one in ids[:MAX_SHOWN_IDS])
    return shown + (f" and {len(ids) - MAX_SHOWN_IDS} more" if len(ids) > MAX_SHOWN_IDS else "")
