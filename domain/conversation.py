"""A conversation to go on with: messages and the tools that the model may call.

Messages have the shape of OpenAI's request schemas (`ChatCompletionRequestMessage`), because that is what
every chat template is written for; the engine's template makes one prompt of them.
"""

import enum
from typing import Annotated, Any, Literal

import msgspec

# The look-ahead is for Python, where a dollar sign also matches before a last line end.
ToolName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$(?!\n)")]


class _Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Reads and writes OpenAI's JSON; what has its default is left out."""


class TextPart(_Wire, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A piece of text."""

    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None
    """Where OpenAI's cache of prefixes shall end. Without effect: prefixes are cached in any case."""


class RefusalPart(_Wire, frozen=True, kw_only=True, tag_field="type", tag="refusal"):
    """What the model said when it refused, in a message that is sent back to it."""

    refusal: str


Text = str | Annotated[list[TextPart], msgspec.Meta(min_length=1)]


class SystemMessage(_Wire, frozen=True, kw_only=True, tag_field="role", tag="system"):
    """Instructions that stand above the conversation."""

    content: Text
    name: str | None = None


class DeveloperMessage(_Wire, frozen=True, kw_only=True, tag_field="role", tag="developer"):
    """OpenAI's newer name for the same; templates that don't know it get a system message."""

    content: Text
    name: str | None = None


class UserMessage(_Wire, frozen=True, kw_only=True, tag_field="role", tag="user"):
    """What the user says."""

    content: Text
    name: str | None = None


class FunctionCall(_Wire, frozen=True, kw_only=True):
    """A function and the text of its arguments, which should be JSON but is the model's own."""

    name: str
    arguments: str
    parsed_arguments: Any = None
    """What openai-python made of the arguments; it sends it back."""


class ToolCall(_Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One call that the model made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None
    """Left over from a stream."""


class AssistantMessage(_Wire, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    """What the model said before. Fields of answers may come back as they were sent."""

    content: str | Annotated[list[TextPart | RefusalPart], msgspec.Meta(min_length=1)] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning: str | None = None
    """What a reasoning model thought; `reasoning_content` is the same under the name that answers use."""
    reasoning_content: str | None = None
    annotations: list[Any] | None = None
    audio: dict[str, Any] | None = None
    function_call: FunctionCall | None = None
    parsed: Any = None


class ToolMessage(_Wire, frozen=True, kw_only=True, tag_field="role", tag="tool"):
    """What a call came to."""

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
    """Whether arguments must follow the schema when the model chooses freely to call."""


class ToolChoice(enum.StrEnum):
    """Whether the model calls tools."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    NAMED = "named"


FORCED = (ToolChoice.REQUIRED, ToolChoice.NAMED)
"""The choices with which an answer is nothing but calls."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that goes into a chat template."""

    messages: list[Message]
    tools: list[Function] = []
    tool_params: list[str] = []
    """For each tool, the request field with its parameters; empty if the tools are all that the client sent."""
    tool_choice: ToolChoice = ToolChoice.NONE
    tool_name: str | None = None
    """The tool to call, where the choice is NAMED."""
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    include_reasoning: bool = True
    """Whether what a reasoning model thinks is told."""
    template_arguments: dict[str, Any] | None = None
    """More variables for the template, such as `enable_thinking`."""
    documents: list[dict[str, str]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """Go on with the last message instead of beginning a new one."""

    @property
    def characters(self) -> int:
        """Length of all that is said in it, tools aside: what its tokens can be estimated from."""
        return sum(_characters(message) for message in self.messages)


def _characters(message: Message) -> int:
    content = message.content
    if content is None or isinstance(content, str):
        return len(content or "")
    return sum(len(part.text if isinstance(part, TextPart) else part.refusal) for part in content)
