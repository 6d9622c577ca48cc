"""Conversations: messages, and the tools that the model may call.

Messages follow OpenAI's request schemas (`ChatCompletionRequestMessage`), which chat templates are written for.
The engine's chat template renders them as one prompt.
"""

import enum
from typing import Annotated, Any, Literal

import msgspec

# In Python `$` also matches before a trailing newline; the lookahead excludes that.
ToolName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$(?!\n)")]


class _Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of structs that are decoded from and encoded as OpenAI's JSON; omits fields with default values."""


class TextPart(_Wire, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A text part."""

    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None
    """End of the prefix that OpenAI caches. Accepted and ignored: prefixes are always cached."""


class RefusalPart(_Wire, frozen=True, kw_only=True, tag_field="type", tag="refusal"):
    """The model's refusal, in an assistant message that is sent back to it."""

    refusal: str


Text = str | Annotated[list[TextPart], msgspec.Meta(min_length=1)]


class SystemMessage(_Wire, frozen=True, kw_only=True, tag_field="role", tag="system"):
    """Instructions for the whole conversation."""

    content: Text
    name: str | None = None


class DeveloperMessage(_Wire, frozen=True, kw_only=True, tag_field="role", tag="developer"):
    """OpenAI's newer name for a system message; templates that don't support it get a system message."""

    content: Text
    name: str | None = None


class UserMessage(_Wire, frozen=True, kw_only=True, tag_field="role", tag="user"):
    """A message of the user."""

    content: Text
    name: str | None = None


class FunctionCall(_Wire, frozen=True, kw_only=True):
    """A function's name and its arguments as text, which the model generates and which may be invalid JSON."""

    name: str
    arguments: str
    parsed_arguments: Any = None
    """The arguments as parsed by openai-python, which sends them back."""


class ToolCall(_Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One tool call of the model."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None
    """Present in calls that were collected from a stream. Ignored."""


class AssistantMessage(_Wire, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    """An earlier answer of the model. Accepts the fields of responses, so that clients can send them back."""

    content: str | Annotated[list[TextPart | RefusalPart], msgspec.Meta(min_length=1)] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning: str | None = None
    """A reasoning model's reasoning; `reasoning_content` is the same under the name that responses use."""
    reasoning_content: str | None = None
    annotations: list[Any] | None = None
    audio: dict[str, Any] | None = None
    function_call: FunctionCall | None = None
    parsed: Any = None


class ToolMessage(_Wire, frozen=True, kw_only=True, tag_field="role", tag="tool"):
    """The result of a tool call."""

    content: Text
    tool_call_id: str
    name: str | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class Function(_Wire, frozen=True, kw_only=True):
    """A function that the model may call (OpenAI's schema `FunctionObject`)."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of an object; None for no parameters."""
    strict: bool | None = None
    """Whether arguments must follow the schema if the tool choice is `auto`."""


class ToolChoice(enum.StrEnum):
    """Whether the model calls tools."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    NAMED = "named"


FORCED = (ToolChoice.REQUIRED, ToolChoice.NAMED)
"""The tool choices with which the answer consists of tool calls only."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Input of a chat template."""

    messages: list[Message]
    tools: list[Function] = []
    tool_params: list[str] = []
    """For each tool, the request field with its parameters; empty if `tools` has all tools of the request."""
    tool_choice: ToolChoice = ToolChoice.NONE
    tool_name: str | None = None
    """The tool to call if the tool choice is NAMED."""
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    include_reasoning: bool = True
    """Whether responses include the reasoning."""
    template_arguments: dict[str, Any] | None = None
    """Additional variables for the template, such as `enable_thinking`."""
    documents: list[dict[str, str]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """Continue the last message instead of starting a new one."""

    @property
    def characters(self) -> int:
        """Total length of the messages' text, without tools; for token estimates."""
        return sum(_characters(message) for message in self.messages)


def _characters(message: Message) -> int:
    content = message.content
    if content is None or isinstance(content, str):
        return len(content or "")
    return sum(len(part.text if isinstance(part, TextPart) else part.refusal) for part in content)
