"""Messages of a request and their content blocks.

Source: anthropic-python's `MessageParam` and `ContentBlockParam`. Images and documents are known in order to be
refused by name; other kinds of blocks are unknown.
"""

from typing import Annotated, Any

import msgspec


class _Block(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """Base of content blocks."""

    cache_control: Any = None
    """End of the prefix that Anthropic caches. Accepted and ignored: prefixes are always cached."""


class TextBlock(_Block, frozen=True, kw_only=True, tag="text"):
    """A text."""

    text: str
    citations: Any = None
    """Of an earlier answer. Accepted and ignored."""


class ThinkingBlock(_Block, frozen=True, kw_only=True, tag="thinking"):
    """The reasoning of an earlier answer."""

    thinking: str
    signature: str | None = None
    """Accepted and ignored: reasoning is always passed to the chat template."""


class RedactedThinkingBlock(_Block, frozen=True, kw_only=True, tag="redacted_thinking"):
    """Encrypted reasoning of Anthropic's models. Accepted and ignored, because nothing here can read it."""

    data: str


class ToolUseBlock(_Block, frozen=True, kw_only=True, tag="tool_use"):
    """One tool call of the model."""

    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None
    toolset_name: str | None = None


class ImageBlock(_Block, frozen=True, kw_only=True, tag="image"):
    """An image, which is refused."""

    source: Any = None
    transformations: Any = None


class DocumentBlock(_Block, frozen=True, kw_only=True, tag="document"):
    """A document, which is refused."""

    source: Any = None
    title: Any = None
    context: Any = None
    citations: Any = None


class ToolReferenceBlock(_Block, frozen=True, kw_only=True, tag="tool_reference"):
    """A tool that a search for tools has found, in the result of that search."""

    tool_name: str


ResultBlock = TextBlock | ToolReferenceBlock | ImageBlock | DocumentBlock


class ToolResultBlock(_Block, frozen=True, kw_only=True, tag="tool_result"):
    """The result of a tool call."""

    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


UserBlock = TextBlock | ToolResultBlock | ImageBlock | DocumentBlock
AssistantBlock = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock


class _Turn(msgspec.Struct, frozen=True, kw_only=True, tag_field="role", forbid_unknown_fields=True):
    """Base of messages."""


class UserTurn(_Turn, frozen=True, kw_only=True, tag="user"):
    """A message of the user, with the results of tool calls."""

    content: str | Annotated[list[UserBlock], msgspec.Meta(min_length=1)]


class AssistantTurn(_Turn, frozen=True, kw_only=True, tag="assistant"):
    """An earlier answer of the model; as the last message, the beginning of its next one."""

    content: str | list[AssistantBlock]


class SystemTurn(_Turn, frozen=True, kw_only=True, tag="system"):
    """Instructions within the conversation."""

    content: str | list[TextBlock]


Turn = UserTurn | AssistantTurn | SystemTurn
