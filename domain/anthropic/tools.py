"""Tools of a request, and which of them the model may call.

Source: anthropic-python's `ToolParam` and `ToolChoiceParam`. Tools of other types are Anthropic's own; a tolerant
decoder drops them.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from domain.conversation import FORCED, Function, ToolChoice
from domain.errors import InvalidRequestError
from domain.openai.nesting import check_json

OTHER_TYPES = "Tools of other types are not supported here."
MessagesToolName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$(?!\n)")]


class MessagesTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that the client runs."""

    name: MessagesToolName
    input_schema: dict[str, Any]
    """JSON schema of an object."""
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    """Whether inputs must follow the schema if the tool choice is `auto`."""
    allowed_callers: Any = None
    cache_control: Any = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: Any = None


class _Choice(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """Base of tool choices."""

    disable_parallel_tool_use: bool | None = None


class AutoToolChoice(_Choice, frozen=True, kw_only=True, tag="auto"):
    """The model decides."""


class AnyToolChoice(_Choice, frozen=True, kw_only=True, tag="any"):
    """The model calls at least one tool."""


class NamedToolChoice(_Choice, frozen=True, kw_only=True, tag="tool"):
    """The model calls this tool."""

    name: str


class NoToolChoice(_Choice, frozen=True, kw_only=True, tag="none"):
    """The model calls no tool."""


MessagesToolChoice = AutoToolChoice | AnyToolChoice | NamedToolChoice | NoToolChoice


class ToolFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a `Conversation` that are about tools."""

    tools: list[Function] = []
    tool_params: list[str] = []
    tool_choice: ToolChoice = ToolChoice.NONE
    tool_name: str | None = None
    parallel_tool_calls: bool = True


def tool_fields(tools: Sequence[MessagesTool], choice: MessagesToolChoice | None) -> ToolFields:
    """Convert tools and the choice among them.

    Raises:
        InvalidRequestError: a name occurs twice, a schema is not an object's, or the choice requires what is not
            among the tools.
    """
    _check_tools(tools)
    kind, name = _kind(tools, choice)
    if kind is ToolChoice.NONE:
        return ToolFields()
    return ToolFields(
        tools=[_function(tool, is_forced=kind in FORCED) for tool in tools],
        tool_params=[_schema_param(position) for position in range(len(tools))],
        tool_choice=kind,
        tool_name=name,
        parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
    )


def _check_tools(tools: Sequence[MessagesTool]) -> None:
    names: set[str] = set()
    for position, tool in enumerate(tools):
        if tool.name in names:
            raise InvalidRequestError(
                f"'tools[{position}].name' is '{tool.name}', as an earlier tool's. Names of tools must be unique.",
                param=f"tools[{position}].name",
                code="invalid_value",
            )
        names.add(tool.name)
        param = _schema_param(position)
        check_json(tool.input_schema, param)
        if tool.input_schema.get("type", "object") != "object":
            raise InvalidRequestError(
                f"Invalid schema for tool '{tool.name}': its 'type' must be 'object'.",
                param=param,
                code="invalid_value",
            )


def _kind(tools: Sequence[MessagesTool], choice: MessagesToolChoice | None) -> tuple[ToolChoice, str | None]:
    """The tool choice, and the name of the tool if it selects a single one."""
    if isinstance(choice, NamedToolChoice):
        if all(tool.name != choice.name for tool in tools):
            raise InvalidRequestError(
                f"'tool_choice' names the tool '{choice.name[:128]}', which is not among the custom 'tools'. "
                f"{OTHER_TYPES}",
                param="tool_choice.name",
                code="invalid_value",
            )
        return ToolChoice.NAMED, choice.name
    if isinstance(choice, AnyToolChoice):
        if not tools:
            raise InvalidRequestError(
                f"'tool_choice' requires a tool call, and there are no custom 'tools'. {OTHER_TYPES}",
                param="tool_choice",
                code="invalid_value",
            )
        return ToolChoice.REQUIRED, None
    if isinstance(choice, NoToolChoice) or not tools:
        return ToolChoice.NONE, None
    return ToolChoice.AUTO, None


def _function(tool: MessagesTool, *, is_forced: bool) -> Function:
    """The function of a tool, with implicit defaults made explicit as in chat completions."""
    return Function(
        name=tool.name,
        description=tool.description,
        parameters={"type": "object", "properties": {}} | tool.input_schema,
        strict=True if is_forced and tool.strict is None else tool.strict,
    )


def _schema_param(position: int) -> str:
    """The request field with a tool's schema."""
    return f"tools[{position}].input_schema"
