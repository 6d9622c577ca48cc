"""Converts Anthropic's messages to the domain's, which are OpenAI's.

One of Anthropic's messages may become several: each tool result is a message of its own. Consecutive messages of
one role become one, as in Anthropic's API, because many chat templates require roles to alternate.

Calls and results have to belong together, as in Anthropic's API. That API also requires that results come first in
the message after the calls; here they are moved there, in front of texts and instructions.
"""

from collections.abc import Iterable, Sequence

import msgspec

from domain.anthropic.blocks import (
    AssistantTurn,
    DocumentBlock,
    ImageBlock,
    RedactedThinkingBlock,
    SystemTurn,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UserTurn,
)
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
from domain.openai.nesting import check_json
from domain.openai.tool_turns import listed_ids

ERROR_MARK = "Error: "
"""Precedes the result of a failed tool call, because chat templates have no place for `is_error`."""
BILLING_MARK = "x-anthropic-billing-header"
"""Begins a system text of Claude Code that is not for the model, and differs in each request: with it in front of
every prompt, no prefix would be cached."""


def to_messages(system: str | Sequence[TextBlock] | None, turns: Sequence[Turn]) -> list[Message]:
    """The domain's messages for a request's.

    Args:
        system: the system prompt.
        turns: the messages.

    Raises:
        InvalidRequestError: an image or document, a tool's input that is nested too deeply, a result without its
            call, or a call without its result.
    """
    drafts: list[_Draft] = []
    answer: _Draft | None = None
    _add_system(drafts, system)
    for position, turn in enumerate(turns):
        param = f"messages[{position}].content"
        if isinstance(turn, SystemTurn):
            _add_system(drafts, turn.content)
        elif isinstance(turn, UserTurn):
            _add_user(drafts, answer, turn, param)
        else:
            draft = _draft(drafts, "assistant")
            if answer is not None and answer is not draft:
                _check_answered(answer)
            answer = draft
            _add_assistant(answer, turn, param)
    if answer is not None:
        _check_answered(answer)
    return [one.message() for draft in drafts for one in (draft, *draft.results)]


class _Draft:
    """A message that may still grow, and the results of its calls, which become the messages after it."""

    def __init__(self, role: str, tool_call_id: str = "") -> None:
        self.role = role
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[ToolCall] = []
        self.call_params: dict[str, str] = {}
        """The request field of each call, by its id."""
        self.results: list[_Draft] = []
        self.tool_call_id = tool_call_id

    def message(self) -> Message:
        """The message. The model's own texts are joined as they were written, others as paragraphs."""
        if self.role == "assistant":
            text = "".join(self.texts)
            return AssistantMessage(
                content=text if text or not self.calls else None,
                reasoning="".join(self.reasoning) or None,
                tool_calls=self.calls or None,
            )
        text = "\n".join(self.texts)
        if self.role == "tool":
            return ToolMessage(content=text, tool_call_id=self.tool_call_id)
        return SystemMessage(content=text) if self.role == "system" else UserMessage(content=text)


def _draft(drafts: list[_Draft], role: str) -> _Draft:
    """The last draft if it has this role and nothing comes after it, else a new one."""
    if not drafts or drafts[-1].role != role or drafts[-1].results:
        drafts.append(_Draft(role))
    return drafts[-1]


def _add_system(drafts: list[_Draft], content: str | Sequence[TextBlock] | None) -> None:
    texts = [content] if isinstance(content, str) else [block.text for block in content or ()]
    for text in texts:
        if text and not text.startswith(BILLING_MARK):
            _draft(drafts, "system").texts.append(text)


def _add_user(drafts: list[_Draft], answer: _Draft | None, turn: UserTurn, param: str) -> None:
    """Add a user's texts, and its results to the model's last answer."""
    if isinstance(turn.content, str):
        _draft(drafts, "user").texts.append(turn.content)
        return
    for position, block in enumerate(turn.content):
        own = f"{param}[{position}]"
        if isinstance(block, ToolResultBlock):
            result = _Draft("tool", block.tool_use_id)
            result.texts.append((ERROR_MARK if block.is_error else "") + _result_text(block, own))
            if answer is None or block.tool_use_id not in answer.call_params:
                raise _unknown_call(block.tool_use_id, f"{own}.tool_use_id")
            answer.results.append(result)
        else:
            _draft(drafts, "user").texts.append(_text(block, own))


def _unknown_call(tool_use_id: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Invalid '{param}': {listed_ids([tool_use_id])} is not the id of a 'tool_use' block in the assistant "
        "message before. Send each 'tool_result' block in the message after the one with its 'tool_use' block.",
        param=param,
        code="invalid_value",
    )


def _check_answered(answer: _Draft) -> None:
    """Raise InvalidRequestError for calls without results."""
    answered = {result.tool_call_id for result in answer.results}
    missing = [call_id for call_id in answer.call_params if call_id not in answered]
    if missing:
        param = answer.call_params[missing[0]]
        raise InvalidRequestError(
            f"Invalid '{param}': 'tool_use' blocks have no 'tool_result' block in the next message: "
            f"{listed_ids(missing)}. Add a 'tool_result' block for each to the user message after them.",
            param=param,
            code="invalid_value",
        )


def _result_text(block: ToolResultBlock, param: str) -> str:
    if isinstance(block.content, str):
        return block.content
    parts = enumerate(block.content or ())
    return "\n".join(_text(part, f"{param}.content[{position}]") for position, part in parts)


def _text(block: TextBlock | ToolReferenceBlock | ImageBlock | DocumentBlock, param: str) -> str:
    if isinstance(block, ToolReferenceBlock):
        return f"Tool: {block.tool_name}"
    if isinstance(block, TextBlock):
        return block.text
    kind = "images" if isinstance(block, ImageBlock) else "documents"
    raise InvalidRequestError(
        f"'{param}' is of type '{block.__struct_config__.tag}', and the model reads no {kind}. Send text instead.",
        param=param,
        code="unsupported_value",
    )


def _add_assistant(draft: _Draft, turn: AssistantTurn, param: str) -> None:
    blocks: Iterable[object] = [TextBlock(text=turn.content)] if isinstance(turn.content, str) else turn.content
    for position, block in enumerate(blocks):
        if isinstance(block, TextBlock):
            draft.texts.append(block.text)
        elif isinstance(block, ThinkingBlock):
            draft.reasoning.append(block.thinking)
        elif isinstance(block, ToolUseBlock):
            own = f"{param}[{position}]"
            check_json(block.input, f"{own}.input")
            function = FunctionCall(name=block.name, arguments=msgspec.json.encode(block.input).decode())
            draft.calls.append(ToolCall(id=block.id, function=function))
            draft.call_params.setdefault(block.id, own)
        else:
            assert isinstance(block, RedactedThinkingBlock)
