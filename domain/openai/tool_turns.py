"""Checks that tool calls and their results belong together, in any API whose requests become a list of messages.

Source: the behavior of OpenAI's service. It requires that the results of an assistant message's calls follow it,
one for each call, before any other message.
"""

from collections.abc import Sequence

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
) -> None:
    """Raise InvalidRequestError for a result without its call, and for a call without its result.

    Args:
        messages: the conversation.
        continues: whether the model continues the last message, whose calls then need no results yet.
    """
    calls: dict[str, None] = {}
    caller = 0
    answered: set[str] = set()
    for position, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            _check_result(message, calls, message_param(position))
            answered.add(message.tool_call_id)
            continue
        _check_answered(calls, answered, message_param(caller))
        calls, caller, answered = {}, position, set()
        if isinstance(message, AssistantMessage):
            calls = dict.fromkeys(call.id for call in message.tool_calls or [])
    if not (continues and caller == len(messages) - 1):
        _check_answered(calls, answered, message_param(caller))


def _check_result(message: ToolMessage, calls: dict[str, None], param: str) -> None:
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
            f"preceding message's 'tool_calls': {listed_ids(list(calls))}.",
            param=f"{param}.tool_call_id",
            code="invalid_value",
        )


def _check_answered(calls: dict[str, None], answered: set[str], param: str) -> None:
    missing = [call for call in calls if call not in answered]
    if missing:
        raise InvalidRequestError(
            f"Invalid '{param}': an assistant message with 'tool_calls' must be followed by tool messages "
            "responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            f"{listed_ids(missing)}.",
            param=f"{param}.tool_calls",
            code="invalid_value",
        )


def listed_ids(ids: Sequence[str]) -> str:
    """Ids for an error message: the first ones, shortened."""
    shown = ", ".join(f"'{one[:100]}'" for one in ids[:MAX_SHOWN_IDS])
    return shown + (f" and {len(ids) - MAX_SHOWN_IDS} more" if len(ids) > MAX_SHOWN_IDS else "")
