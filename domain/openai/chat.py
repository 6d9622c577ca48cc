"""`POST /v1/chat/completions`: what is accepted.

Source: OpenAI's schema `CreateChatCompletionRequest`. Answers are in `chat_response.py`.
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
from domain.openai.field import about
from domain.openai.nesting import check_json
from domain.openai.sampling import SamplingFields, TokenCount
from domain.requests import GenerationRequest
from domain.sampling import StructuredOutputs

MAX_TOOLS = 128
NOT_HERE = "is not supported here"


class Tool(msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True):
    """A function tool; OpenAI's custom tools are not offered."""

    function: Function


class NamedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names one of the tools."""

    name: ToolName


class NamedChoice(msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True):
    """The model shall call this tool."""

    function: NamedFunction


class AllowedTool(msgspec.Struct, frozen=True, tag_field="type", tag="function", forbid_unknown_fields=True):
    """One of the tools that may be called."""

    function: NamedFunction


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some of the tools, and whether one must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], msgspec.Meta(min_length=1)]


class AllowedChoice(
    msgspec.Struct, frozen=True, tag_field="type", tag="allowed_tools", forbid_unknown_fields=True
):
    """The model may call these tools only."""

    allowed_tools: AllowedTools


class TextFormat(msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Plain text, which is the default."""


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
    """Without effect: the answer follows the schema in any case."""


class JsonSchemaFormat(
    msgspec.Struct, frozen=True, tag_field="type", tag="json_schema", forbid_unknown_fields=True
):
    """JSON that follows a schema."""

    json_schema: JsonSchema


class ChatBody(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to answer a conversation."""

    messages: Annotated[
        Annotated[list[Message], msgspec.Meta(min_length=1)],
        about("Roles system, developer, user, assistant and tool; content as text or text parts."),
    ]
    model: Annotated[str, about("Name or alias of the generation model.")]
    audio: Annotated[Any, about("The models write text only.", effect="refused")] = None
    function_call: Annotated[Any, about("Use `tool_choice`.", effect="refused")] = None
    functions: Annotated[Any, about("Use `tools`.", effect="refused")] = None
    logprobs: Annotated[bool | None, about("Tell log probabilities.")] = None
    max_completion_tokens: Annotated[
        TokenCount | None,
        about("Most tokens for each choice, reasoning included; default: what the context holds."),
    ] = None
    metadata: Annotated[TextMap | None, about("At most 16 pairs of text. Nothing is stored.", effect="none")] = (
        None
    )
    modalities: Annotated[list[Literal["text"]] | None, about("Only `text`.")] = None
    moderation: Annotated[Any, about("There is no moderation model.", effect="refused")] = None
    parallel_tool_calls: Annotated[bool | None, about("False: at most one call in an answer.")] = None
    prediction: Annotated[dict[str, Any] | None, about("A hint for speed, which is not taken.", effect="none")] = (
        None
    )
    prompt_cache_key: Annotated[str | None, about("Prefixes are cached in any case.", effect="none")] = None
    prompt_cache_options: Annotated[
        dict[str, Any] | None, about("Prefixes are cached in any case.", effect="none")
    ] = None
    prompt_cache_retention: Annotated[
        Literal["in_memory", "in-memory", "24h"] | None, about("Prefixes are cached in any case.", effect="none")
    ] = None
    reasoning_effort: Annotated[
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None,
        about("Given to the chat template; `none` turns thinking off where the template can."),
    ] = None
    response_format: Annotated[
        TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
        about("`text`, `json_object` or `json_schema`; the tokens are constrained, `strict` or not."),
    ] = None
    safety_identifier: Annotated[str | None, about("There is nobody to tell.", effect="none")] = None
    service_tier: Annotated[
        Literal["auto", "default", "flex", "scale", "priority", "fast"] | None,
        about("There is one tier.", effect="none"),
    ] = None
    store: Annotated[bool | None, about("Nothing is stored.", effect="none")] = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedChoice | AllowedChoice | None,
        about("`none`, `auto`, `required`, one function, or `allowed_tools`."),
    ] = None
    tools: Annotated[list[Tool] | None, about("At most 128 functions; custom tools are refused.")] = None
    top_logprobs: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=20)] | None, about("Tell so many likeliest tokens; needs `logprobs`.")
    ] = None
    verbosity: Annotated[
        Literal["low", "medium", "high"] | None, about("The models know no such control.", effect="none")
    ] = None
    web_search_options: Annotated[Any, about("There is no web search.", effect="refused")] = None

    add_generation_prompt: Annotated[
        bool | None, about("Whether the template opens the assistant's turn.", vllm=True)
    ] = None
    add_special_tokens: Annotated[
        bool | None, about("Whether the tokenizer adds its own to what the template wrote.", vllm=True)
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, about("More variables for the chat template, such as `enable_thinking`.", vllm=True)
    ] = None
    continue_final_message: Annotated[
        bool | None, about("Go on with the last message; needs `add_generation_prompt: false`.", vllm=True)
    ] = None
    documents: Annotated[
        list[dict[str, str]] | None, about("Documents for templates that know them.", vllm=True)
    ] = None
    include_reasoning: Annotated[bool | None, about("False leaves `reasoning_content` out.", vllm=True)] = None

    def to_request(self, conversation: Conversation) -> GenerationRequest:
        """The domain's request.

        Args:
            conversation: from `to_conversation`.

        Raises:
            InvalidRequestError: parameters that are each possible but not together, or not here.
        """
        self.check_stream_options()
        self._check_refused()
        sampling = self.to_sampling(
            max_tokens=self._max_tokens(), logprobs=self._logprobs(), form=_form(self.response_format)
        )
        return GenerationRequest(
            prompt=conversation,
            sampling=sampling,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            add_special_tokens=self.add_special_tokens,
        )

    def to_conversation(self) -> Conversation:
        """Messages and tools.

        Raises:
            InvalidRequestError: a message without content, or tools that don't fit each other.
        """
        for position, message in enumerate(self.messages):
            check_message(message, f"messages[{position}]")
        check_json(self.chat_template_kwargs, "chat_template_kwargs")
        choice, name = self._tool_choice([tool.function for tool in self.tools or []])
        tools, params = self._callable(choice)
        continues = bool(self.continue_final_message)
        opens = (not continues) if self.add_generation_prompt is None else self.add_generation_prompt
        if continues and opens:
            raise InvalidRequestError(
                "'continue_final_message' needs 'add_generation_prompt' to be false.",
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
            template_arguments=_template_arguments(self.chat_template_kwargs),
            documents=self.documents,
            add_generation_prompt=opens,
            continue_final_message=continues,
        )

    def _callable(self, choice: ToolChoice) -> tuple[list[Function], list[str]]:
        """The tools that the model may call, and the request fields with their parameters. It knows no others."""
        if choice is ToolChoice.NONE:
            return [], []
        allowed = None
        if isinstance(self.tool_choice, AllowedChoice):
            allowed = {tool.function.name for tool in self.tool_choice.allowed_tools.tools}
        tools, params = [], []
        for position, tool in enumerate(self.tools or []):
            if allowed is None or tool.function.name in allowed:
                tools.append(_described(tool.function, is_forced=choice in FORCED))
                params.append(_parameters_param(position))
        return tools, params

    def _check_refused(self) -> None:
        for name, instead in REFUSED.items():
            if getattr(self, name) is not None:
                raise InvalidRequestError(
                    f"'{name}' {NOT_HERE}. {instead}", param=name, code="unsupported_parameter"
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
        """The choice, and the name of the tool where it is one."""
        choice = self.tool_choice
        if self.tools is not None and not 0 < len(self.tools) <= MAX_TOOLS:
            raise InvalidRequestError(
                f"'tools' must have 1 to {MAX_TOOLS} items, or be left out.",
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
    "audio": "The models write text only.",
    "function_call": "Use 'tool_choice'.",
    "functions": "Use 'tools'.",
    "moderation": "There is no moderation model.",
    "web_search_options": "There is no web search.",
}
"""Fields of OpenAI's that can't be honoured, and would be missed if they were passed over."""


def _described(tool: Function, *, is_forced: bool) -> Function:
    """A tool with everything said that OpenAI leaves unsaid.

    Parameters are those of an object, and none if left out. A call that the client insists on follows the
    schema, unless the client does not want that: small models would not get it right by themselves.
    """
    parameters = {"type": "object", "properties": {}} | (tool.parameters or {})
    strict = True if is_forced and tool.strict is None else tool.strict
    return msgspec.structs.replace(tool, parameters=parameters, strict=strict)


def check_message(message: Message, param: str) -> None:
    """Raise InvalidRequestError for an assistant's message that says nothing, or says it in the old way."""
    if not isinstance(message, AssistantMessage):
        return
    if message.function_call is not None:
        raise InvalidRequestError(
            f"'{param}.function_call' {NOT_HERE}. Use 'tool_calls'.",
            param=f"{param}.function_call",
            code="unsupported_parameter",
        )
    says = (message.content, message.refusal, message.reasoning, message.reasoning_content)
    if not message.tool_calls and all(part is None for part in says):
        raise InvalidRequestError(
            f"'{param}.content' must not be null in an assistant's message without 'tool_calls'.",
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


def _form(wanted: TextFormat | JsonObjectFormat | JsonSchemaFormat | None) -> StructuredOutputs | None:
    if isinstance(wanted, JsonObjectFormat):
        return StructuredOutputs(json_object=True)
    if isinstance(wanted, JsonSchemaFormat):
        return StructuredOutputs(json=wanted.json_schema.schema or {})
    return None


RESERVED_ARGUMENTS = {
    "chat_template", "tokenize", "messages", "conversation", "tools", "add_generation_prompt",
    "continue_final_message", "self", "return_dict", "return_tensors", "return_assistant_tokens_mask",
    "padding", "truncation", "max_length", "tokenizer_kwargs",
}  # fmt: skip
"""What `apply_chat_template` of transformers takes for itself, and no template ever sees."""


def _template_arguments(arguments: dict[str, Any] | None) -> dict[str, Any] | None:
    """Refuse what would replace the template, or the conversation, by the back door, or fail behind it."""
    for name in sorted(RESERVED_ARGUMENTS & set(arguments or {})):
        raise InvalidRequestError(
            f"'chat_template_kwargs' must not set '{name}'.",
            param=f"chat_template_kwargs.{name}",
            code="invalid_value",
        )
    # vLLM's reasoning parsers read this one too, and fail on what is no switch.
    if not isinstance((arguments or {}).get("enable_thinking"), bool | None):
        raise InvalidRequestError(
            "'chat_template_kwargs.enable_thinking' must be true or false.",
            param="chat_template_kwargs.enable_thinking",
            code="invalid_type",
        )
    return arguments
