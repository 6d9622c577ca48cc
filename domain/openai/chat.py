"""Request schema of `POST /v1/chat/completions`.

Source: OpenAI's schema `CreateChatCompletionRequest`. Responses are in `chat_response.py`.
"""

from typing import Annotated, Any, Literal

import msgspec

from domain.conversation import (
    FORCED,
    AssistantMessage,
    Conversation,
    Function,
    Message,
    ToolChoice,
    ToolName,
)
from domain.errors import InvalidRequestError
from domain.openai.common import TextMap
from domain.openai.field import describe
from domain.openai.nesting import check_json
from domain.openai.sampling import SamplingFields, TokenCount
from domain.openai.tool_turns import check_tool_turns
from domain.requests import GenerationRequest
from domain.sampling import StructuredOutputs
from domain.service_class import FLEX_TIER

MAX_TOOLS = 128
NOT_SUPPORTED = "is not supported here"


class Tool(msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True):
    """A function tool; OpenAI's custom tools are not supported."""

    function: Function


class NamedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name of one of the tools."""

    name: ToolName


class NamedChoice(msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True):
    """The model must call this tool."""

    function: NamedFunction


class AllowedTool(msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True):
    """One of the tools that may be called."""

    function: NamedFunction


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A subset of the tools, and whether one must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], msgspec.Meta(min_length=1)]


class AllowedChoice(
    msgspec.Struct, frozen=True, tag_field="type", tag="allowed_tools", forbid_unknown_fields=True
):
    """The model may call only these tools."""

    allowed_tools: AllowedTools


class TextFormat(msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Plain text, the default."""


class JsonObjectFormat(
    msgspec.Struct, frozen=True, tag_field="type", tag="json_object", forbid_unknown_fields=True
):
    """Any JSON object."""


class JsonSchema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON schema and its name."""

    name: ToolName
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    """Accepted and ignored: the answer always follows the schema."""


class JsonSchemaFormat(
    msgspec.Struct, frozen=True, tag_field="type", tag="json_schema", forbid_unknown_fields=True
):
    """JSON that follows a schema."""

    json_schema: JsonSchema


class ChatBody(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a chat completion request."""

    messages: Annotated[
        Annotated[list[Message], msgspec.Meta(min_length=1)],
        describe("Roles system, developer, user, assistant and tool; content as text or text parts."),
    ]
    model: Annotated[str, describe("Name or alias of the generation model.")]
    audio: Annotated[Any, describe("Only text output is supported.", effect="refused")] = None
    function_call: Annotated[Any, describe("Use `tool_choice`.", effect="refused")] = None
    functions: Annotated[Any, describe("Use `tools`.", effect="refused")] = None
    logprobs: Annotated[bool | None, describe("Return log probabilities.")] = None
    max_completion_tokens: Annotated[
        TokenCount | None,
        describe("Maximum tokens per choice, including reasoning; default: the rest of the context length."),
    ] = None
    metadata: Annotated[
        TextMap | None, describe("At most 16 key-value pairs. Nothing is stored.", effect="none")
    ] = None
    modalities: Annotated[list[Literal["text"]] | None, describe("Only `text` is supported.")] = None
    moderation: Annotated[Any, describe("Moderation is not supported.", effect="refused")] = None
    parallel_tool_calls: Annotated[bool | None, describe("If false, at most one tool call per answer.")] = None
    prediction: Annotated[dict[str, Any] | None, describe("Predicted outputs are not used.", effect="none")] = None
    prompt_cache_key: Annotated[str | None, describe("Prefixes are always cached.", effect="none")] = None
    prompt_cache_options: Annotated[
        dict[str, Any] | None, describe("Prefixes are always cached.", effect="none")
    ] = None
    prompt_cache_retention: Annotated[
        Literal["in_memory", "in-memory", "24h"] | None, describe("Prefixes are always cached.", effect="none")
    ] = None
    reasoning_effort: Annotated[
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None,
        describe("Passed to the chat template; `none` disables thinking if the template supports it."),
    ] = None
    response_format: Annotated[
        TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
        describe("`text`, `json_object` or `json_schema`; decoding is constrained with or without `strict`."),
    ] = None
    safety_identifier: Annotated[str | None, describe("Accepted and ignored.", effect="none")] = None
    service_tier: Annotated[
        Literal["auto", "default", "flex", "scale", "priority", "fast"] | None,
        describe("`flex` gives way to requests of all other tiers, which are treated alike."),
    ] = None
    store: Annotated[bool | None, describe("Nothing is stored.", effect="none")] = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedChoice | AllowedChoice | None,
        describe("`none`, `auto`, `required`, one function, or `allowed_tools`."),
    ] = None
    tools: Annotated[list[Tool] | None, describe("At most 128 functions; custom tools are rejected.")] = None
    top_logprobs: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=20)] | None,
        describe("Number of most likely tokens to return per position; requires `logprobs`."),
    ] = None
    verbosity: Annotated[
        Literal["low", "medium", "high"] | None, describe("Not supported by the models.", effect="none")
    ] = None
    web_search_options: Annotated[Any, describe("Web search is not supported.", effect="refused")] = None

    add_generation_prompt: Annotated[
        bool | None, describe("Whether the template starts the assistant's turn.", vllm=True)
    ] = None
    add_special_tokens: Annotated[
        bool | None,
        describe("Whether the tokenizer adds special tokens to the output of the template.", vllm=True),
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None,
        describe("Additional variables for the chat template, such as `enable_thinking`.", vllm=True),
    ] = None
    continue_final_message: Annotated[
        bool | None, describe("Continue the last message; requires `add_generation_prompt: false`.", vllm=True)
    ] = None
    documents: Annotated[
        list[dict[str, str]] | None, describe("Documents for templates that support them.", vllm=True)
    ] = None
    include_reasoning: Annotated[bool | None, describe("If false, `reasoning_content` is omitted.", vllm=True)] = (
        None
    )

    @property
    def reported_tier(self) -> Literal["flex"] | msgspec.UnsetType:
        """The `service_tier` of the answer; only a tier that has an effect is reported."""
        return FLEX_TIER if self.service_tier == FLEX_TIER else msgspec.UNSET

    def to_request(self, conversation: Conversation) -> GenerationRequest:
        """Convert to the domain's request.

        Args:
            conversation: from `to_conversation`.

        Raises:
            InvalidRequestError: unsupported parameters, or an invalid combination.
        """
        self.check_stream_options()
        self._check_refused()
        sampling = self.to_sampling(
            max_tokens=self._max_tokens(),
            logprobs=self._logprobs(),
            response_format=_structured_outputs(self.response_format),
            n=self.n or 1,
        )
        return GenerationRequest(
            prompt=conversation,
            sampling=sampling,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            add_special_tokens=self.add_special_tokens,
        )

    def to_conversation(self) -> Conversation:
        """Convert messages and tools.

        Raises:
            InvalidRequestError: a message without content, a tool call without a result or the reverse, or invalid
                tools.
        """
        for position, message in enumerate(self.messages):
            check_message(message, f"messages[{position}]")
        check_tool_turns(self.messages, continues=bool(self.continue_final_message))
        check_json(self.chat_template_kwargs, "chat_template_kwargs")
        choice, name = self._tool_choice([tool.function for tool in self.tools or []])
        tools, params = self._callable_tools(choice)
        continues = bool(self.continue_final_message)
        opens = (not continues) if self.add_generation_prompt is None else self.add_generation_prompt
        if continues and opens:
            raise InvalidRequestError(
                "'continue_final_message' requires 'add_generation_prompt' to be false.",
                param="continue_final_message",
                code="invalid_value",
            )
        return Conversation(
            messages=self.messages,
            tools=tools,
            tool_params=params,
            tool_choice=choice,
            tool_name=name,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            reasoning_effort=self.reasoning_effort,
            include_reasoning=self.include_reasoning is not False,
            template_arguments=check_template_arguments(self.chat_template_kwargs),
            documents=self.documents,
            add_generation_prompt=opens,
            continue_final_message=continues,
        )

    def _callable_tools(self, choice: ToolChoice) -> tuple[list[Function], list[str]]:
        """The tools that are passed to the model, and the request fields with their parameters."""
        if choice is ToolChoice.NONE:
            return [], []
        allowed = None
        if isinstance(self.tool_choice, AllowedChoice):
            allowed = {tool.function.name for tool in self.tool_choice.allowed_tools.tools}
        tools, params = [], []
        for position, tool in enumerate(self.tools or []):
            if allowed is None or tool.function.name in allowed:
                tools.append(_with_defaults(tool.function, is_forced=choice in FORCED))
                params.append(_parameters_param(position))
        return tools, params

    def _check_refused(self) -> None:
        for name, hint in REFUSED.items():
            if getattr(self, name) is not None:
                raise InvalidRequestError(
                    f"'{name}' {NOT_SUPPORTED}. {hint}", param=name, code="unsupported_parameter"
                )

    def _max_tokens(self) -> int | None:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InvalidRequestError(
                "'max_tokens' and 'max_completion_tokens' can't be used together; 'max_completion_tokens' is the "
                "newer name.",
                param="max_tokens",
                code="invalid_parameter_combination",
            )
        for name in ("max_completion_tokens", "max_tokens"):
            limit: int | None = getattr(self, name)
            if limit == 0:
                raise InvalidRequestError(
                    f"'{name}' must be at least 1.", param=name, code="integer_below_min_value"
                )
            if limit is not None:
                return limit
        return None

    def _logprobs(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError(
                "'top_logprobs' is only allowed when 'logprobs' is true.",
                param="top_logprobs",
                code="invalid_value",
            )
        return (self.top_logprobs or 0) if self.logprobs else None

    def _tool_choice(self, tools: list[Function]) -> tuple[ToolChoice, str | None]:
        """The tool choice, and the name of the tool if it selects a single one."""
        choice = self.tool_choice
        if self.tools is not None and not 0 < len(self.tools) <= MAX_TOOLS:
            raise InvalidRequestError(
                f"'tools' must have 1 to {MAX_TOOLS} items, or be omitted.",
                param="tools",
                code="array_above_max_length" if self.tools else "empty_array",
            )
        if not tools and choice not in (None, "none"):
            raise InvalidRequestError(
                "'tool_choice' is only allowed when 'tools' are given.", param="tool_choice", code="invalid_value"
            )
        known = {tool.name for tool in tools}
        for position, tool in enumerate(tools):
            _check_parameters(tool, _parameters_param(position))
        if isinstance(choice, NamedChoice):
            _check_known(choice.function.name, known)
            return ToolChoice.NAMED, choice.function.name
        if isinstance(choice, AllowedChoice):
            for allowed in choice.allowed_tools.tools:
                _check_known(allowed.function.name, known)
            return ToolChoice(choice.allowed_tools.mode), None
        if choice is None:
            return (ToolChoice.AUTO if tools else ToolChoice.NONE), None
        return ToolChoice(choice), None


REFUSED = {
    "audio": "Only text output is supported.",
    "function_call": "Use 'tool_choice'.",
    "functions": "Use 'tools'.",
    "moderation": "There is no moderation model.",
    "web_search_options": "There is no web search.",
}
"""Fields of OpenAI's API that are rejected, because ignoring them would give the client a wrong answer."""


def _with_defaults(tool: Function, *, is_forced: bool) -> Function:
    """Make OpenAI's implicit defaults of a tool explicit.

    Parameters are those of an object; omitted ones mean no parameters. Forced calls have to follow the schema,
    because small models would not by themselves; with `strict: false` they follow it where it is supported.
    """
    parameters = {"type": "object", "properties": {}} | (tool.parameters or {})
    strict = True if is_forced and tool.strict is None else tool.strict
    return msgspec.structs.replace(tool, parameters=parameters, strict=strict)


def check_message(message: Message, param: str) -> None:
    """Raise InvalidRequestError for an assistant message without content or with deprecated `function_call`."""
    if not isinstance(message, AssistantMessage):
        return
    if message.function_call is not None:
        raise InvalidRequestError(
            f"'{param}.function_call' {NOT_SUPPORTED}. Use 'tool_calls'.",
            param=f"{param}.function_call",
            code="unsupported_parameter",
        )
    parts = (message.content, message.refusal, message.reasoning, message.reasoning_content)
    if not message.tool_calls and all(part is None for part in parts):
        raise InvalidRequestError(
            f"'{param}.content' must not be null in an assistant message without 'tool_calls'.",
            param=f"{param}.content",
            code="invalid_type",
        )


def _check_known(name: str, known: set[str]) -> None:
    if name not in known:
        raise InvalidRequestError(
            f"'tool_choice' names the function '{name}', which is not among 'tools'.",
            param="tool_choice",
            code="invalid_value",
        )


def _parameters_param(position: int) -> str:
    """The request field with the parameters of one of the client's tools."""
    return f"tools[{position}].function.parameters"


def _check_parameters(tool: Function, param: str) -> None:
    check_json(tool.parameters, param)
    kind = (tool.parameters or {}).get("type", "object")
    if kind != "object":
        raise InvalidRequestError(
            f"Invalid schema for function '{tool.name}': its 'type' must be 'object'.",
            param=param,
            code="invalid_function_parameters",
        )


def _structured_outputs(
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
) -> StructuredOutputs | None:
    if isinstance(response_format, JsonObjectFormat):
        return StructuredOutputs(json_object=True)
    if isinstance(response_format, JsonSchemaFormat):
        return StructuredOutputs(json=response_format.json_schema.schema or {})
    return None


RESERVED_ARGUMENTS = {
    "chat_template", "tokenize", "messages", "conversation", "tools", "add_generation_prompt",
    "continue_final_message", "self", "return_dict", "return_tensors", "return_assistant_tokens_mask",
    "padding", "truncation", "max_length", "tokenizer_kwargs",
}  # fmt: skip
"""Parameters of `apply_chat_template` of transformers, which are not passed to the template."""


def check_template_arguments(arguments: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the arguments; reject those that replace the template or the messages, or break the engine."""
    for name in sorted(RESERVED_ARGUMENTS & set(arguments or {})):
        raise InvalidRequestError(
            f"'chat_template_kwargs' must not set '{name}'.",
            param=f"chat_template_kwargs.{name}",
            code="invalid_value",
        )
    # vLLM's reasoning parsers read this argument too, and fail if it is not a boolean.
    if not isinstance((arguments or {}).get("enable_thinking"), bool | None):
        raise InvalidRequestError(
            "'chat_template_kwargs.enable_thinking' must be true or false.",
            param="chat_template_kwargs.enable_thinking",
            code="invalid_type",
        )
    return arguments
