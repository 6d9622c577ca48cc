"""Request schemas of `POST /v1/messages` and `POST /v1/messages/count_tokens`.

Source: anthropic-python's `MessageCreateParams` and `MessageCountTokensParams` (2.14.0), with fields of its beta.
Answers are in `response.py`.
"""

from typing import Annotated, Any, Literal

import msgspec

from domain.anthropic.blocks import TextBlock, Turn
from domain.anthropic.conversation import to_messages
from domain.anthropic.error import ThreadsUnsupportedError
from domain.anthropic.tools import MessagesTool, MessagesToolChoice, tool_fields
from domain.conversation import AssistantMessage, Conversation, Message
from domain.errors import InvalidRequestError
from domain.openai.field import describe
from domain.openai.nesting import check_json
from domain.openai.sampling import MAX_STOPS
from domain.requests import GenerationRequest, TokenizeRequest
from domain.sampling import SamplingParameters, StructuredOutputs
from domain.tolerance import TOLERATES_UNKNOWN_TYPES

THINKING_ARGUMENTS = ("enable_thinking", "thinking")
"""Variables of chat templates that switch thinking on or off; templates ignore unknown variables."""

Display = Literal["summarized", "omitted", "updates"]


class ThinkingEnabled(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="enabled", forbid_unknown_fields=True
):
    """The model thinks before it answers."""

    budget_tokens: Annotated[int, msgspec.Meta(ge=1)]
    """Accepted and ignored: the models have no budget for thinking, and `max_tokens` includes it."""
    display: Display | None = None
    block_binding: Any = None


class ThinkingAdaptive(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="adaptive", forbid_unknown_fields=True
):
    """The model decides whether to think, which is what it does by default."""

    display: Display | None = None
    block_binding: Any = None


class ThinkingBetweenTools(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="between_tools", forbid_unknown_fields=True
):
    """As `adaptive`: the chat template decides what remains of earlier reasoning."""


class ThinkingDisabled(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="disabled", forbid_unknown_fields=True
):
    """The model does not think, if its chat template can switch that off."""


Thinking = ThinkingEnabled | ThinkingAdaptive | ThinkingBetweenTools | ThinkingDisabled


class MessagesJsonFormat(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="json_schema", forbid_unknown_fields=True
):
    """JSON that follows a schema."""

    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Effort and form of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: MessagesJsonFormat | None = None
    task_budget: Any = None
    """Accepted and ignored."""


class CountTokensBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a request to count tokens, and the part of a request for a message that makes its prompt."""

    messages: Annotated[
        Annotated[list[Turn], msgspec.Meta(min_length=1)],
        describe("Roles user, assistant and system; content as text or blocks: text, tool_use, tool_result, "
                 "thinking, redacted_thinking."),
    ]  # fmt: skip
    model: Annotated[str, describe("Name or alias of the generation model.")]
    cache_control: Annotated[Any, describe("Prefixes are always cached.", effect="none")] = None
    context_management: Annotated[Any, describe("The messages are used as they are sent.", effect="none")] = None
    mcp_servers: Annotated[Any, describe("The service connects to no MCP server.", effect="none")] = None
    output_config: Annotated[
        OutputConfig | None,
        describe("`effort` is passed to the chat template; `format` with a `json_schema` constrains the text."),
    ] = None
    speed: Annotated[str | None, describe("There is only one speed.", effect="none")] = None
    system: Annotated[str | list[TextBlock] | None, describe("Instructions, as text or text blocks.")] = None
    thinking: Annotated[
        Thinking | None,
        describe("`disabled` and `enabled` switch it off or on if the chat template can; `budget_tokens` is "
                 "ignored. With `display: omitted` it is not returned. Default: the model's own."),
    ] = None  # fmt: skip
    tool_choice: Annotated[
        MessagesToolChoice | None,
        describe(
            "`auto`, `any`, `tool` or `none`, with `disable_parallel_tool_use`. Forced calls follow their schema."
        ),
    ] = None
    tools: Annotated[
        Annotated[list[MessagesTool], TOLERATES_UNKNOWN_TYPES] | None,
        describe("Custom tools. Anthropic's own types are ignored, or refused with `STRICT_TOOLS=true`."),
    ] = None

    def to_conversation(self) -> Conversation:
        """Convert system prompt, messages and tools.

        Raises:
            InvalidRequestError: unsupported content, or invalid tools.
        """
        messages = to_messages(self.system, self.messages)
        is_continued = _is_continued(messages)
        choice = tool_fields(self.tools or [], self.tool_choice)
        return Conversation(
            messages=messages,
            tools=choice.tools,
            tool_params=choice.tool_params,
            tool_choice=choice.tool_choice,
            tool_name=choice.tool_name,
            parallel_tool_calls=choice.parallel_tool_calls,
            reasoning_effort=self.output_config.effort if self.output_config is not None else None,
            include_reasoning=self._includes_thinking(),
            template_arguments=self._template_arguments(),
            add_generation_prompt=not is_continued,
            continue_final_message=is_continued,
        )

    def to_tokenize_request(self) -> TokenizeRequest:
        """Convert to a request for the prompt's tokens.

        Raises:
            InvalidRequestError: as `to_conversation`.
        """
        return TokenizeRequest(prompt=self.to_conversation())

    def _includes_thinking(self) -> bool:
        thinking = self.thinking
        if isinstance(thinking, ThinkingEnabled | ThinkingAdaptive):
            return thinking.display != "omitted"
        return not isinstance(thinking, ThinkingDisabled)

    def _template_arguments(self) -> dict[str, Any] | None:
        if isinstance(self.thinking, ThinkingEnabled | ThinkingDisabled):
            return dict.fromkeys(THINKING_ARGUMENTS, isinstance(self.thinking, ThinkingEnabled))
        return None


class MessagesBody(CountTokensBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a request for a message."""

    max_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)],
        describe("Maximum tokens of the answer, including thinking; at most the rest of the context length."),
    ]
    container: Annotated[Any, describe("There are no containers.", effect="none")] = None
    diagnostics: Annotated[Any, describe("Accepted and ignored.", effect="none")] = None
    inference_geo: Annotated[str | None, describe("Accepted and ignored.", effect="none")] = None
    metadata: Annotated[Any, describe("Nothing is stored.", effect="none")] = None
    service_tier: Annotated[str | None, describe("There is only one tier.", effect="none")] = None
    stop_sequences: Annotated[list[str] | None, describe(f"At most {MAX_STOPS} sequences that end the text.")] = (
        None
    )
    stream: Annotated[bool | None, describe("Stream the answer as server-sent events.")] = None
    temperature: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=1)] | None,
        describe("0 is greedy. Default: the value of the model's generation_config.json, or 1."),
    ] = None
    thread: Annotated[
        Any,
        describe("Not supported; Anthropic's SDKs then send the whole conversation.", effect="refused"),
    ] = None
    top_k: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None,
        describe("Sample from this number of most likely tokens; 0 for all."),
    ] = None
    top_p: Annotated[Annotated[float, msgspec.Meta(ge=0, le=1)] | None, describe("0 is greedy.")] = None

    def to_conversation(self) -> Conversation:
        """As for counting tokens.

        Raises:
            ThreadsUnsupportedError: the service is to keep the conversation.
        """
        if self.thread is not None:
            raise ThreadsUnsupportedError
        return CountTokensBody.to_conversation(self)

    def to_request(self, conversation: Conversation) -> GenerationRequest:
        """Convert to the domain's request.

        Args:
            conversation: from `to_conversation`.

        Raises:
            InvalidRequestError: an invalid value.
        """
        return GenerationRequest(
            prompt=conversation,
            sampling=SamplingParameters(
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                stop=self._stops(),
                structured_outputs=self._structured_outputs(),
                structured_outputs_param="output_config.format.schema",
            ),
        )

    def _stops(self) -> list[str]:
        stops = self.stop_sequences or []
        if len(stops) > MAX_STOPS:
            raise InvalidRequestError(
                f"'stop_sequences' has {len(stops)} sequences; at most {MAX_STOPS} are allowed.",
                param="stop_sequences",
                code="array_above_max_length",
            )
        if not all(stops):
            raise InvalidRequestError(
                "'stop_sequences' must not contain an empty string.", param="stop_sequences", code="invalid_value"
            )
        return stops

    def _structured_outputs(self) -> StructuredOutputs | None:
        form = self.output_config.format if self.output_config is not None else None
        if form is None:
            return None
        check_json(form.schema, "output_config.format.schema")
        return StructuredOutputs(json=form.schema)


def _is_continued(messages: list[Message]) -> bool:
    """Whether the model continues the last message. An empty one that it could not continue is removed.

    Raises:
        InvalidRequestError: there are no messages to answer.
    """
    last = messages[-1] if messages else None
    if isinstance(last, AssistantMessage):
        if last.content:
            return True
        messages.pop()
    if not messages:
        raise InvalidRequestError(
            "'messages' must have a message with content.", param="messages", code="invalid_value"
        )
    return False
