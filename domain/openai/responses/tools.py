"""Tools of the Responses API, and their translation to the functions that chat templates support.

Source: OpenAI's schemas `FunctionToolParam`, `CustomToolParam` and `ToolChoiceParam`. A custom tool takes text
instead of JSON. Chat templates know functions only, so it becomes a function with one text argument, which
`CustomInput` unwraps again.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from domain.conversation import FORCED, Function, ToolChoice, ToolName
from domain.errors import InvalidRequestError
from domain.openai.malformed import MALFORMED, malformed_json
from domain.openai.nesting import check_json
from domain.openai.responses.items import DecodePart, IgnorePart, check_ignored
from domain.sampling import StructuredOutputs

MAX_TOOLS = 128
INPUT = "input"
"""The argument of the function that stands for a custom tool."""


class _Tool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields of both kinds of tools. Those about programmatic and deferred calls are accepted and ignored."""

    name: ToolName
    description: str | None = None
    allowed_callers: list[str] | None | msgspec.UnsetType = msgspec.UNSET
    defer_loading: bool | None | msgspec.UnsetType = msgspec.UNSET


class FunctionTool(_Tool, kw_only=True, tag_field="type", tag="function"):
    """A function, whose arguments are JSON."""

    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: dict[str, Any] | None | msgspec.UnsetType = msgspec.UNSET


class TextInput(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Any text."""


class GrammarInput(msgspec.Struct, tag_field="type", tag="grammar", forbid_unknown_fields=True):
    """Text that follows a grammar."""

    definition: str
    syntax: Literal["lark", "regex"]


class CustomTool(_Tool, kw_only=True, tag_field="type", tag="custom"):
    """A tool that takes text."""

    format: TextInput | GrammarInput = msgspec.field(default_factory=TextInput)


ClientTool = FunctionTool | CustomTool
TOOL_TYPES: dict[str, type[ClientTool]] = {"function": FunctionTool, "custom": CustomTool}


class FunctionChoice(msgspec.Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    """The model must call this function."""

    name: ToolName


class CustomChoice(msgspec.Struct, tag_field="type", tag="custom", forbid_unknown_fields=True):
    """The model must call this custom tool."""

    name: ToolName


class AllowedChoice(msgspec.Struct, tag_field="type", tag="allowed_tools", forbid_unknown_fields=True):
    """The model may call only these tools; each has a `type`, and a `name` if it is a client's."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]


Choice = Literal["none", "auto", "required"] | FunctionChoice | CustomChoice | AllowedChoice


class _Type(msgspec.Struct):
    type: Any = None


class CallableTools(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of a request, as the model gets them."""

    functions: list[Function] = []
    params: list[str] = []
    """For each function, the request field with its parameters."""
    custom: frozenset[str] = frozenset()
    """Names of the functions that stand for custom tools."""
    choice: ToolChoice = ToolChoice.NONE
    name: str | None = None
    """The tool to call if the choice is NAMED."""
    grammar: StructuredOutputs | None = None
    """If set, the answer's whole text is the input of the custom tool `name`, and follows this grammar."""
    grammar_param: str = ""


_type_decoder = msgspec.json.Decoder(_Type)


def read_tools(raws: Sequence[bytes], decode: DecodePart, ignore: IgnorePart) -> dict[int, ClientTool]:
    """Decode the tools that a client runs, by their position.

    Args:
        raws: each tool's JSON.
        decode: decodes one of them, and raises InvalidRequestError if it is invalid.
        ignore: called for tools of other types, which run at OpenAI.

    Raises:
        InvalidRequestError: a tool is invalid, there are too many, or two have the same name.
    """
    if len(raws) > MAX_TOOLS:
        raise InvalidRequestError(
            f"'tools' must have at most {MAX_TOOLS} items.", param="tools", code="array_above_max_length"
        )
    tools: dict[int, ClientTool] = {}
    names: set[str] = set()
    for position, raw in enumerate(raws):
        path = f"tools[{position}]"
        try:
            name = _type_decoder.decode(raw).type
        except msgspec.ValidationError:
            raise InvalidRequestError(
                f"Invalid '{path}': expected an object.", param=path, code="invalid_type"
            ) from None
        except MALFORMED as error:
            raise malformed_json(error) from None
        kind = TOOL_TYPES.get(name) if isinstance(name, str) else None
        if kind is not None:
            tool = tools[position] = decode(raw, kind, path)
            if tool.name in names:
                raise InvalidRequestError(
                    f"'{path}.name' is '{tool.name}', which another tool has already.",
                    param=f"{path}.name",
                    code="invalid_value",
                )
            names.add(tool.name)
        elif isinstance(name, str):
            check_ignored(raw)
            ignore(path, name)
        else:
            raise InvalidRequestError(
                f"Missing required parameter: '{path}.type'.",
                param=f"{path}.type",
                code="missing_required_parameter",
            )
    return tools


def callable_tools(tools: Mapping[int, ClientTool], choice: Choice | None) -> CallableTools:
    """The tools as functions, and which of them the model may call.

    Raises:
        InvalidRequestError: the choice names a tool that is not there, or a schema is invalid.
    """
    kind, name, allowed = _chosen(tools, choice)
    if kind is ToolChoice.NONE:
        return CallableTools()
    functions, params, custom = [], [], set()
    for position, tool in tools.items():
        if allowed is not None and tool.name not in allowed:
            continue
        if isinstance(tool, CustomTool):
            if kind is ToolChoice.NAMED and tool.name == name and _is_lark(tool):
                return _grammar_tool(tool, position)
            custom.add(tool.name)
            functions.append(_custom_function(tool))
            params.append(f"tools[{position}].format.definition")
        else:
            functions.append(_function(tool, f"tools[{position}].parameters", is_forced=kind in FORCED))
            params.append(f"tools[{position}].parameters")
    return CallableTools(functions=functions, params=params, custom=frozenset(custom), choice=kind, name=name)


def _chosen(
    tools: Mapping[int, ClientTool], choice: Choice | None
) -> tuple[ToolChoice, str | None, set[str] | None]:
    """The choice, the one tool that it names, and the tools that it allows (None for all)."""
    if isinstance(choice, FunctionChoice | CustomChoice):
        _check_known(choice.name, tools, FunctionTool if isinstance(choice, FunctionChoice) else CustomTool)
        return ToolChoice.NAMED, choice.name, None
    if isinstance(choice, AllowedChoice):
        # Tools that run at OpenAI have no name; without them the others remain.
        names = {name for tool in choice.tools if isinstance(name := tool.get("name"), str)}
        for name in names:
            _check_known(name, tools, FunctionTool, CustomTool)
        if not names:
            return _without_tools(choice.mode), None, names
        return ToolChoice(choice.mode), None, names
    if not tools:
        return _without_tools(choice), None, None
    return ToolChoice(choice or "auto"), None, None


def _without_tools(mode: str | None) -> ToolChoice:
    if mode == "required":
        raise InvalidRequestError(
            "'tool_choice' is 'required', but it leaves no function and no custom tool of 'tools'.",
            param="tool_choice",
            code="invalid_value",
        )
    return ToolChoice.NONE


def _check_known(name: str, tools: Mapping[int, ClientTool], *kinds: type[ClientTool]) -> None:
    if not any(tool.name == name and isinstance(tool, kinds) for tool in tools.values()):
        raise InvalidRequestError(
            f"'tool_choice' names the tool '{name}', which is not among 'tools'.",
            param="tool_choice",
            code="invalid_value",
        )


def _function(tool: FunctionTool, param: str, *, is_forced: bool) -> Function:
    """As in chat: omitted parameters mean none, and forced calls have to follow the schema."""
    check_json(tool.parameters, param)
    parameters = {"type": "object", "properties": {}} | (tool.parameters or {})
    if parameters["type"] != "object":
        raise InvalidRequestError(
            f"Invalid schema for function '{tool.name}': its 'type' must be 'object'.",
            param=param,
            code="invalid_function_parameters",
        )
    strict = True if is_forced and tool.strict is None else tool.strict
    return Function(name=tool.name, description=tool.description, parameters=parameters, strict=strict)


def _is_lark(tool: CustomTool) -> bool:
    return isinstance(tool.format, GrammarInput) and tool.format.syntax == "lark"


def _custom_function(tool: CustomTool) -> Function:
    text: dict[str, Any] = {"type": "string"}
    if isinstance(tool.format, GrammarInput) and tool.format.syntax == "regex":
        text["pattern"] = f"^(?:{tool.format.definition})$"
    return Function(
        name=tool.name,
        description=_description(tool),
        parameters={
            "type": "object",
            "properties": {INPUT: text},
            "required": [INPUT],
            "additionalProperties": False,
        },
        strict=True,
    )


def _description(tool: CustomTool) -> str | None:
    """With the grammar, because decoding does not follow it where the call is optional."""
    if not _is_lark(tool) or not isinstance(tool.format, GrammarInput):
        return tool.description
    grammar = f"The input follows this Lark grammar:\n{tool.format.definition}"
    return f"{tool.description}\n\n{grammar}" if tool.description else grammar


def _grammar_tool(tool: CustomTool, position: int) -> CallableTools:
    """A forced custom tool with a Lark grammar: the answer is nothing but its input, so decoding can follow it."""
    assert isinstance(tool.format, GrammarInput)
    function = msgspec.structs.replace(_custom_function(tool), strict=None)
    return CallableTools(
        functions=[function],
        params=[f"tools[{position}]"],
        custom=frozenset({tool.name}),
        choice=ToolChoice.AUTO,
        name=tool.name,
        grammar=StructuredOutputs(grammar=tool.format.definition),
        grammar_param=f"tools[{position}].format.definition",
    )
