"""Renders chat prompts and parses chat outputs with vLLM's templates and parsers, without its web server.

These components take vLLM's request object. It is constructed here without validation, because the domain has
validated the request.

Source: vllm.entrypoints.openai.chat_completion.serving.OpenAIServingChat (0.32.0), which performs the same steps.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionRequest,
    ChatCompletionToolsParam,
)
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.outputs import CompletionOutput
from vllm.renderers import BaseRenderer, TokenizeParams
from vllm.renderers.chat_utils import load_chat_template, make_tool_call_id
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from adapters.vllm.dialect.forced_calls import CallReader, CallShape, parse_calls, shapes_from_tag
from adapters.vllm.dialect.request_fields import conversation_fields, sampling_fields
from adapters.vllm.dialect.schema_support import normalize_if_possible
from adapters.vllm.inprocess.chat_options import ChatOptions
from domain.conversation import Conversation
from domain.errors import InvalidRequestError
from domain.requests import GenerationRequest
from domain.results import ToolCallDelta


class Chat:
    """Renders conversations to prompts, and parses outputs into text, reasoning and tool calls."""

    def __init__(self, model_config: ModelConfig, renderer: BaseRenderer, options: ChatOptions) -> None:
        self._model_config = model_config
        self._renderer = renderer
        # Unparsable model output is not an error of the service, but vLLM logs a traceback for each.
        logging.getLogger("vllm.tool_parsers").setLevel(logging.CRITICAL)
        self._sampling_defaults: Mapping[str, Any] = model_config.get_diff_sampling_param()
        self._chat_renderer = OnlineRenderer(
            model_config,
            renderer,
            request_logger=None,
            chat_template=load_chat_template(options.chat_template),
            chat_template_content_format=options.chat_template_content_format,
            enable_auto_tools=True,
            tool_parser=options.tool_call_parser,
            reasoning_parser=options.reasoning_parser,
            tool_strict_level=options.tool_strict_level,
            default_chat_template_kwargs=options.default_chat_template_kwargs,
        )

    @property
    def has_reasoning_parser(self) -> bool:
        """Whether the model has a reasoning parser."""
        parser = self._chat_renderer.parser
        return parser is not None and parser.reasoning_parser_cls is not None

    def warm_up(self) -> None:
        """Compile the chat template. Blocks briefly."""
        self._chat_renderer.warmup()

    async def render(
        self, request: GenerationRequest, conversation: Conversation, *, streams: bool
    ) -> "RenderedChat":
        """Render the conversation to a tokenized prompt.

        Args:
            request: the request from `prepare`.
            conversation: the client's original conversation, for the template.
            streams: whether outputs are streamed.

        Raises vLLM's errors if the template rejects the conversation or the prompt is too long.
        """
        vllm_request = _chat_request(request, conversation, self._model_config.max_model_len, streams=streams)
        rendered = await self._chat_renderer.render_chat(vllm_request)
        if isinstance(rendered, ErrorResponse):
            raise InvalidRequestError(rendered.error.message, param=rendered.error.param)
        _normalize_grammar(vllm_request, _schema_pairs(request, conversation))
        _, (engine_input,) = rendered
        return RenderedChat(self, vllm_request, engine_input)

    async def tokenize(self, conversation: Conversation, *, add_special_tokens: bool) -> list[int]:
        """The conversation's tokens, without a length limit."""
        request = ChatCompletionRequest.model_construct(**_vllm_fields(conversation_fields(conversation)))
        params = request.build_chat_params(
            self._chat_renderer.chat_template, self._chat_renderer.chat_template_content_format
        ).with_defaults(
            {
                **self._chat_renderer.default_chat_template_kwargs,
                "tools": _tool_dicts(request.tools),
                "tokenize": False,
            }
        )
        unlimited = TokenizeParams(
            max_total_tokens=None, max_output_tokens=0, add_special_tokens=add_special_tokens
        )
        tokens = await self._renderer.render_chat_async([request.messages], params, unlimited, skip_mm_cache=True)
        ids: list[int] = tokens[1][0]["prompt_token_ids"]
        return ids

    def sampling_params(self, request: ChatCompletionRequest, prompt_tokens: int) -> SamplingParams:
        """vLLM's sampling parameters for a rendered request, including what its parsers added."""
        defaults = dict(self._sampling_defaults)
        max_tokens = get_max_tokens(self._model_config.max_model_len, request.max_tokens, prompt_tokens, defaults)
        return request.to_sampling_params(max_tokens, defaults)

    def parser(self, request: ChatCompletionRequest) -> Any | None:
        """A parser for one choice, or None if the text needs no parsing."""
        parser_class = self._chat_renderer.parser
        if parser_class is None:
            return None
        tools = parser_class.tool_parser_cls
        strips_markup = tools is not None and getattr(tools, "engine_based_streaming", False)
        if request.tools is None and parser_class.reasoning_parser_cls is None and not strips_markup:
            return None
        return parser_class(
            self._renderer.get_tokenizer(),
            request.tools,
            chat_template_kwargs=self.template_arguments(request),
            model_config=self._model_config,
        )

    def template_arguments(self, request: ChatCompletionRequest) -> dict[str, Any]:
        """The template's variables, including defaults."""
        arguments: dict[str, Any] = self._chat_renderer.effective_chat_template_kwargs(request)
        return arguments


class Part(NamedTuple):
    """The parsed content of one output of a choice."""

    text: str
    reasoning: str
    tool_calls: list[ToolCallDelta]


class RenderedChat:
    """A rendered conversation, and the state of parsing its outputs."""

    def __init__(self, chat: Chat, request: ChatCompletionRequest, engine_input: Any) -> None:
        self.engine_input = engine_input
        self.prompt_token_ids: list[int] = engine_input["prompt_token_ids"]
        self._chat = chat
        self._request = request
        # One per choice, because parsers keep state; None if the text needs no parsing.
        self._parsers: dict[int, Any] = {0: chat.parser(request)}
        self._shapes = _forced_shapes(request, self._parsers[0])
        self._readers: dict[int, CallReader] = {}
        # If calls are parsed here, vLLM's parsers only separate reasoning from text.
        self._parsed_request = request.model_copy(update={"tool_choice": "none"}) if self._shapes else request
        self._token_ids: dict[int, list[int]] = {}
        self._texts: dict[int, list[str]] = {}
        self._reasoning_ended: bool | None = None

    def sampling_params(self) -> SamplingParams:
        """vLLM's sampling parameters."""
        return self._chat.sampling_params(self._request, len(self.prompt_token_ids))

    def engine_arguments(self) -> dict[str, Any]:
        """Arguments that make the engine apply the constraint only after the reasoning."""
        parser = self._parsers[0]
        has_reasoning_parser = parser is not None and parser.reasoning_parser is not None
        kwargs = (
            {"chat_template_kwargs": self._chat.template_arguments(self._request)}
            if has_reasoning_parser
            else None
        )
        self._reasoning_ended = self._request.resolve_reasoning_ended(parser, self.prompt_token_ids)
        return {"reasoning_ended": self._reasoning_ended, "reasoning_parser_kwargs": kwargs}

    @property
    def starts_with_reasoning(self) -> bool:
        """Whether the answer starts with reasoning, which no grammar constrains."""
        return self._chat.has_reasoning_parser and not self._reasoning_ended

    def part(self, output: CompletionOutput) -> "Part":
        """Parse an output into text, reasoning and tool calls."""
        parser = self._choice_parser(output.index)
        if parser is None:
            return Part(output.text, "", [])
        self._token_ids.setdefault(output.index, []).extend(output.token_ids)
        self._texts.setdefault(output.index, []).append(output.text)
        return self._parse_delta(parser, output) if self._request.stream else self._parse_complete(parser, output)

    def reasoning_tokens(self) -> int | None:
        """Number of reasoning tokens in all choices; None if the model has no reasoning parser."""
        if not self._chat.has_reasoning_parser:
            return None
        return sum(self._count_reasoning_tokens(index) for index in self._token_ids)

    def _count_reasoning_tokens(self, index: int) -> int:
        parser: Any = self._parsers[index]
        token_ids = self._token_ids[index]
        if self._request.stream:
            # A streaming parser skips tokens without text, such as all but the last of a character that spans
            # several tokens, so the complete output is parsed again.
            parser = self._chat.parser(self._request)
            parser.set_prompt_token_ids(self.prompt_token_ids)
            parser.parse(
                "".join(self._texts[index]),
                self._request,
                enable_auto_tools=True,
                model_output_token_ids=token_ids,
            )
        count: int = parser.count_reasoning_tokens(token_ids)
        return count

    def _choice_parser(self, index: int) -> Any:
        if index not in self._parsers:
            self._parsers[index] = self._chat.parser(self._request)
        return self._parsers[index]

    def _parse_delta(self, parser: Any, output: CompletionOutput) -> "Part":
        part = parser.parse_delta(
            output.text,
            list(output.token_ids),
            self._parsed_request,
            self.prompt_token_ids,
            finished=output.finish_reason is not None,
        )
        if part is None:
            return Part("", "", [])
        if self._shapes:
            reader = self._readers.setdefault(output.index, CallReader(self._shapes, make_tool_call_id))
            calls = reader.feed(part.content or "")
            return Part("", part.reasoning or "", calls)
        return Part(
            part.content or "",
            part.reasoning or "",
            [
                ToolCallDelta(
                    index=call.index,
                    id=call.id,
                    name=call.function.name if call.function else None,
                    arguments=(call.function.arguments if call.function else None) or "",
                )
                for call in part.tool_calls or []
            ],
        )

    def _parse_complete(self, parser: Any, output: CompletionOutput) -> "Part":
        parser.set_prompt_token_ids(self.prompt_token_ids)
        reasoning, content, calls = parser.parse(
            output.text, self._parsed_request, enable_auto_tools=True, model_output_token_ids=output.token_ids
        )
        if self._shapes:
            read = parse_calls(content or "", self._shapes, make_tool_call_id)
            return Part("", reasoning or "", read or [])
        return Part(
            content or "",
            reasoning or "",
            [
                ToolCallDelta(
                    index=index, id=call.id or make_tool_call_id(), name=call.name, arguments=call.arguments
                )
                for index, call in enumerate(calls or [])
            ],
        )


def _chat_request(
    request: GenerationRequest, conversation: Conversation, max_model_len: int, *, streams: bool
) -> ChatCompletionRequest:
    sampling = request.sampling
    fields = conversation_fields(_as_strict(conversation, request)) | sampling_fields(sampling)
    if sampling.max_tokens is not None:
        # vLLM rejects more than the context length; the rest of the context limits the output anyway.
        fields["max_tokens"] = min(sampling.max_tokens, max_model_len)
    if sampling.logprobs is not None:
        fields |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    return ChatCompletionRequest.model_construct(
        **_vllm_fields(fields),
        stream=streams,
        truncate_prompt_tokens=request.truncate_prompt_tokens,
        add_special_tokens=bool(request.add_special_tokens),
    )


def _as_strict(conversation: Conversation, request: GenerationRequest) -> Conversation:
    """The conversation with its own schemas, of which those are enforced that `prepare` chose."""
    prepared = request.prompt.tools if isinstance(request.prompt, Conversation) else []
    tools = [
        msgspec.structs.replace(own, strict=tool.strict)
        for own, tool in zip(conversation.tools, prepared, strict=True)
    ]
    return msgspec.structs.replace(conversation, tools=tools)


def _vllm_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert values to vLLM's classes where its code expects them."""
    fields = dict(fields)
    if "tools" in fields:
        fields["tools"] = [ChatCompletionToolsParam.model_validate(tool) for tool in fields["tools"]]
    else:
        fields |= {"tools": None, "tool_choice": "none"}
    if isinstance(fields["tool_choice"], dict):
        fields["tool_choice"] = ChatCompletionNamedToolChoiceParam.model_validate(fields["tool_choice"])
    if "structured_outputs" in fields:
        fields["structured_outputs"] = StructuredOutputsParams(**fields["structured_outputs"])
    return fields


def _forced_shapes(request: ChatCompletionRequest, parser: Any) -> list[CallShape]:
    """The call shapes of an answer that consists of forced calls only; empty if it may contain anything else."""
    form = request.structured_outputs
    is_forced = bool(request.tools) and request.tool_choice not in (None, "none", "auto")
    # Engine-based parsers parse reasoning and calls together, and their calls are not JSON.
    if not is_forced or form is None or parser is None or getattr(parser, "_engine_based", True):
        return []
    return shapes_from_tag(form.structural_tag)


def _schema_pairs(request: GenerationRequest, conversation: Conversation) -> list[tuple[Any, Any]]:
    """Pairs of original and normalized schema, for the schemas from which vLLM may have built a grammar."""
    prepared = request.prompt.tools if isinstance(request.prompt, Conversation) else []
    schemas: list[tuple[Any, Any]] = [
        (own.parameters, tool.parameters)
        for own, tool in zip(conversation.tools, prepared, strict=True)
        if tool.strict
    ]
    if (form := request.sampling.structured_outputs) is not None:
        schemas.append((form.json, form.json))
    return schemas


def _normalize_grammar(request: ChatCompletionRequest, schemas: list[tuple[Any, Any]]) -> None:
    """Replace the client's schemas in vLLM's grammar of tool calls by normalized ones.

    Also limits JSON to one consecutive whitespace character: otherwise small models generate endless whitespace.

    Args:
        request: vLLM's request, after rendering.
        schemas: from `_schema_pairs`. Other schemas are normalized here: those of tools that are not strict, which
            `--tool-strict-level` may constrain, and the combined schema of all forced calls that vLLM builds for
            models whose calls have no tag.

    Source: xgrammar.structural_tag.JSONSchemaFormat.max_whitespace_cnt.
    """
    form = request.structured_outputs
    if form is None or not request.tools:
        return
    if isinstance(form.json, dict):
        form.json = _normalize(form.json, schemas)
    if form.structural_tag is None:
        return
    tag = json.loads(form.structural_tag)
    for part in _json_schemas(tag):
        part["max_whitespace_cnt"] = 1
        part["json_schema"] = _normalize(part["json_schema"], schemas)
    form.structural_tag = json.dumps(tag)


def _normalize(schema: Any, schemas: list[tuple[Any, Any]]) -> Any:
    for own, normalized in schemas:
        # Compared as JSON too, because in Python 0 equals False.
        if own == schema and json.dumps(own) == json.dumps(schema):
            return normalized
    return normalize_if_possible(schema)


def _json_schemas(tag: Any) -> Iterator[dict[str, Any]]:
    """The JSON schema parts of a structural tag."""
    if isinstance(tag, list):
        for item in tag:
            yield from _json_schemas(item)
    elif isinstance(tag, dict):
        if tag.get("type") == "json_schema":
            yield tag
            return
        for item in tag.values():
            yield from _json_schemas(item)


def _tool_dicts(tools: list[ChatCompletionToolsParam] | None) -> list[dict[str, Any]] | None:
    return None if tools is None else [tool.model_dump() for tool in tools]
