"""Request schema of `POST /v1/responses`.

Source: OpenAI's schema `CreateResponse`. Items and tools are decoded by `items.py` and `tools.py`, because their
type decides what they may contain, and because those of unknown types can be ignored.
"""

from typing import Annotated, Any, Literal

import msgspec

from domain.conversation import Conversation, Message, ToolName
from domain.errors import InvalidRequestError
from domain.openai.chat import NOT_SUPPORTED, check_template_arguments
from domain.openai.common import TextMap
from domain.openai.field import describe
from domain.openai.nesting import check_json
from domain.openai.responses.conversation import check_duplicate_calls
from domain.openai.responses.items import DecodePart, IgnorePart, MessageItem, read_items
from domain.openai.responses.tools import CallableTools, Choice, ClientTool, callable_tools, read_tools
from domain.openai.sampling import Bias, Penalty, Seed, SharedSamplingFields, TokenCount
from domain.requests import GenerationRequest
from domain.sampling import StructuredOutputs

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
LOGPROBS, ENCRYPTED_REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"
Includable = Annotated[str, msgspec.Meta(max_length=64)]


class ConversationId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation, by its id."""

    id: str


class ReasoningOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model reasons, and what of that the answer shows."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    """The old name of `summary`."""
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: str | None = None

    @property
    def has_summary(self) -> bool:
        """Whether the reasoning is shown as a summary."""
        return (self.summary or self.generate_summary or "none") != "none"


class TextFormat(msgspec.Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Plain text, the default."""


class JsonObjectFormat(
    msgspec.Struct, frozen=True, tag_field="type", tag="json_object", forbid_unknown_fields=True
):
    """Any JSON object."""


class JsonSchemaFormat(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="json_schema", forbid_unknown_fields=True
):
    """JSON that follows a schema."""

    name: ToolName
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    """Accepted and ignored: the answer always follows the schema."""


class TextOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of the answer's text."""

    format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's schema `ResponseStreamOptions`."""

    include_obfuscation: bool | None = None
    """Accepted and ignored: no padding is added to events."""


class InputFields(SharedSamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the prompt is made of: the fields that creating a response, counting tokens and compacting share."""

    input: Annotated[str | list[msgspec.Raw] | None, describe("A text, or items of the conversation.")] = None
    instructions: Annotated[str | None, describe("Becomes a system message before all others.")] = None
    model: Annotated[str, describe("Name or alias of the generation model.")] = ""
    parallel_tool_calls: Annotated[bool | None, describe("If false, at most one tool call per response.")] = None
    previous_response_id: Annotated[
        str | None, describe("The stored response that this one continues; without its `instructions`.")
    ] = None
    conversation: Annotated[
        str | ConversationId | None,
        describe(
            "The stored conversation whose items come first, and to which this request and its answer are added."
        ),
    ] = None
    reasoning: Annotated[
        ReasoningOptions | None,
        describe("`effort` is passed to the chat template; `summary` shows the reasoning as a summary."),
    ] = None
    text: Annotated[
        TextOptions | None,
        describe("`format` as `text`, `json_object` or `json_schema`, by which decoding is constrained."),
    ] = None
    tool_choice: Annotated[
        Choice | None, describe("`none`, `auto`, `required`, one tool, or `allowed_tools`.")
    ] = None
    tools: Annotated[
        list[msgspec.Raw] | None,
        describe("At most 128 functions and custom tools; tools that run at OpenAI are ignored."),
    ] = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        describe("`auto` drops the oldest items if the input exceeds the context length."),
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None,
        describe("Additional variables for the chat template, such as `enable_thinking`.", vllm=True),
    ] = None

    frequency_penalty: Annotated[
        Penalty | None, describe("Penalizes tokens by how often they already appear.", vllm=True)
    ] = None
    logit_bias: Annotated[dict[str, Bias] | None, describe("Token id → bias.", vllm=True)] = None
    presence_penalty: Annotated[Penalty | None, describe("Penalizes tokens that already appear.", vllm=True)] = (
        None
    )
    seed: Annotated[Seed | None, describe("Makes sampling reproducible.", vllm=True)] = None
    stop: Annotated[str | list[str] | None, describe("At most 4 sequences that end the text.", vllm=True)] = None

    @property
    def conversation_id(self) -> str | None:
        """The id of the conversation that the response belongs to."""
        return self.conversation.id if isinstance(self.conversation, ConversationId) else self.conversation

    def read_tools(self, decode: DecodePart, ignore: IgnorePart) -> dict[int, ClientTool]:
        """The tools, by position. Raises InvalidRequestError for invalid ones."""
        return read_tools(self.tools or [], decode, ignore)

    def callable_tools(self, tools: dict[int, ClientTool]) -> CallableTools:
        """The tools as the model gets them. Raises InvalidRequestError for an invalid choice."""
        return callable_tools(tools, self.tool_choice)

    def read_input(self, decode: DecodePart, ignore: IgnorePart) -> list[Any]:
        """The items of the request. Raises InvalidRequestError for invalid ones."""
        if self.input is None:
            return []
        if isinstance(self.input, str):
            return [MessageItem(role="user", content=self.input)]
        items = read_items(self.input, decode, ignore)
        # A client may send items again that are stored, so only those of the request are compared.
        check_duplicate_calls(items)
        return items

    def to_conversation(self, messages: list[Message], tools: CallableTools) -> Conversation:
        """The conversation that the model continues.

        Raises:
            InvalidRequestError: there are no messages, or template arguments are invalid.
        """
        if not messages:
            raise InvalidRequestError(
                "The request has no input. Send 'input' as a text or as items.",
                param="input",
                code="missing_required_parameter",
            )
        check_json(self.chat_template_kwargs, "chat_template_kwargs")
        return Conversation(
            messages=messages,
            tools=tools.functions,
            tool_params=tools.params,
            tool_choice=tools.choice,
            tool_name=tools.name if tools.grammar is None else None,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            reasoning_effort=self.reasoning.effort if self.reasoning is not None else None,
            template_arguments=check_template_arguments(self.chat_template_kwargs),
        )


class ResponseBody(InputFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a request for a response."""

    access_programs: Annotated[Any, describe("Accepted and ignored.", effect="none")] = None
    background: Annotated[bool | None, describe("Return at once, and generate in the background.")] = None
    background_options: Annotated[dict[str, Any] | None, describe("Accepted and ignored.", effect="none")] = None
    context_management: Annotated[
        list[dict[str, Any]] | None, describe("There is no automatic compaction.", effect="none")
    ] = None
    image: Annotated[dict[str, Any] | None, describe("Images are not supported.", effect="none")] = None
    include: Annotated[
        list[Includable] | None,
        describe(f"`{LOGPROBS}` and `{ENCRYPTED_REASONING}`; others have no effect."),
    ] = None
    max_output_tokens: Annotated[
        TokenCount | None,
        describe("Maximum tokens of the response, including reasoning; default: the rest of the context length."),
    ] = None
    max_tool_calls: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        describe("Counts calls of OpenAI's own tools, of which there are none here.", effect="none"),
    ] = None
    metadata: Annotated[TextMap | None, describe("At most 16 key-value pairs, stored and returned.")] = None
    moderation: Annotated[Any, describe("Moderation is not supported.", effect="refused")] = None
    prompt: Annotated[Any, describe("Prompt templates are stored at OpenAI.", effect="refused")] = None
    prompt_cache_key: Annotated[str | None, describe("Prefixes are always cached.", effect="none")] = None
    prompt_cache_options: Annotated[
        dict[str, Any] | None, describe("Prefixes are always cached.", effect="none")
    ] = None
    prompt_cache_retention: Annotated[
        Literal["in_memory", "in-memory", "24h"] | None, describe("Prefixes are always cached.", effect="none")
    ] = None
    safety_identifier: Annotated[str | None, describe("Returned, without other effect.", effect="none")] = None
    service_tier: Annotated[
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None,
        describe("`flex` gives way to requests of all other tiers, which are treated alike."),
    ] = None
    store: Annotated[bool | None, describe("Whether the response is stored; default: true, as at OpenAI.")] = None
    stream_options: Annotated[
        StreamOptions | None,
        describe("`include_obfuscation` is ignored, because no padding is added.", effect="none"),
    ] = None
    top_logprobs: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=20)] | None,
        describe(f"Number of most likely tokens to return per position, with `include` `{LOGPROBS}`."),
    ] = None

    @property
    def is_stored(self) -> bool:
        """Whether the client wants the response to be stored."""
        return self.store is not False

    @property
    def has_encrypted_reasoning(self) -> bool:
        """Whether reasoning items include their content in a form to send back."""
        return ENCRYPTED_REASONING in (self.include or ())

    def check(self) -> None:
        """Raise InvalidRequestError for unsupported parameters and invalid combinations."""
        for name, hint in REFUSED.items():
            if getattr(self, name) is not None:
                raise InvalidRequestError(
                    f"'{name}' {NOT_SUPPORTED}. {hint}", param=name, code="unsupported_parameter"
                )
        if not self.model:
            raise InvalidRequestError(
                "Missing required parameter: 'model'.", param="model", code="missing_required_parameter"
            )
        if self.previous_response_id is not None and self.conversation is not None:
            raise InvalidRequestError(
                "'previous_response_id' and 'conversation' can't be used together: a conversation already has its "
                "earlier items.",
                param="previous_response_id",
                code="invalid_parameter_combination",
            )
        if self.background and not self.is_stored:
            raise InvalidRequestError(
                "'background' requires 'store' to be true: the response is fetched later.",
                param="background",
                code="invalid_parameter_combination",
            )
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError(
                "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
            )
        if self.max_output_tokens == 0:
            raise InvalidRequestError(
                "'max_output_tokens' must be at least 1.",
                param="max_output_tokens",
                code="integer_below_min_value",
            )

    def to_request(self, conversation: Conversation, tools: CallableTools) -> GenerationRequest:
        """Convert to the domain's request.

        Raises:
            InvalidRequestError: an invalid combination.
        """
        outputs, param = _structured_outputs(self.text), "text.format"
        if tools.grammar is not None:
            # The answer is a tool's input, which the text's format does not describe.
            outputs, param = tools.grammar, tools.grammar_param
        sampling = self.to_sampling(
            max_tokens=self.max_output_tokens,
            logprobs=self._logprobs(),
            response_format=outputs,
            format_param=param,
        )
        return GenerationRequest(
            prompt=conversation, sampling=sampling, truncate_prompt_tokens=self.truncate_prompt_tokens
        )

    def _logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None


REFUSED = {
    "moderation": "There is no moderation model.",
    "prompt": "Send the prompt itself as 'input' and 'instructions'.",
}
"""Fields of OpenAI's API that are rejected, because ignoring them would give the client a wrong answer."""


def _structured_outputs(text: TextOptions | None) -> StructuredOutputs | None:
    form = text.format if text is not None else None
    if isinstance(form, JsonObjectFormat):
        return StructuredOutputs(json_object=True)
    if isinstance(form, JsonSchemaFormat):
        return StructuredOutputs(json=form.schema)
    return None
