"""Converts between domain requests and results and the JSON bodies of a vLLM server, without I/O."""

import base64
from typing import Any

from adapters.vllm.dialect.forced_calls import hermes_shapes, parse_calls
from adapters.vllm.dialect.refusals import generation_aborted
from adapters.vllm.dialect.request_fields import conversation_fields, sampling_fields, stop_sequence
from adapters.vllm.http.wire import (
    ServerChatChoice,
    ServerChatLogprobs,
    ServerChatMessage,
    ServerChoice,
    ServerEmbeddings,
    ServerLogprobs,
    ServerUsage,
)
from domain.conversation import FORCED, Conversation
from domain.errors import BackendFailedError
from domain.random_id import random_hex
from domain.requests import GenerationRequest, Prompt, TokenizeRequest
from domain.results import (
    EmbeddingResult,
    FinishReason,
    GenerationDelta,
    GenerationUsage,
    TokenLogprob,
    ToolCallDelta,
)

MAX_TOP_LOGPROBS = 20
"""vLLM's default limit (`--max-logprobs`)."""


def embedding_body(
    inputs: list[Prompt], *, model: str, dimensions: int | None, truncate: int | None, add_special_tokens: bool
) -> dict[str, Any]:
    """Body of `POST /v1/embeddings`; requests the vectors as base64, which is lossless."""
    body: dict[str, Any] = {"model": model, "input": inputs, "encoding_format": "base64"}
    if dimensions is not None:
        body["dimensions"] = dimensions
    if truncate is not None:
        body["truncate_prompt_tokens"] = truncate
    if not add_special_tokens:
        body["add_special_tokens"] = False
    return body


def embedding_result(answer: ServerEmbeddings, *, expected: int) -> EmbeddingResult:
    """The domain's result for a server's response.

    Raises:
        BackendFailedError: the response lacks a vector, or the vectors differ in length.
    """
    items = sorted(answer.data, key=lambda item: item.index)
    rows = [base64.b64decode(item.embedding, validate=True) for item in items]
    lengths = {len(row) for row in rows}
    is_complete = [item.index for item in items] == list(range(expected))
    if not is_complete or len(lengths) != 1 or not rows[0] or len(rows[0]) % 4:
        raise BackendFailedError("The embedding server returned an incomplete set of vectors.")
    return EmbeddingResult(
        vectors=b"".join(rows), dimensions=len(rows[0]) // 4, prompt_tokens=answer.usage.prompt_tokens
    )


def completion_body(
    request: GenerationRequest, prompt: Prompt, *, model: str, max_model_len: int | None, streams: bool
) -> dict[str, Any]:
    """Body of `POST /v1/completions`. Unset parameters are omitted, so that the server uses its defaults."""
    body = _generation_body(request, model=model, max_model_len=max_model_len, streams=streams)
    body |= {"prompt": prompt, "echo": request.echo}
    if echoes_tokens(request):
        body["return_token_ids"] = True
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    return body


def echoes_tokens(request: GenerationRequest) -> bool:
    """Whether the echo is decoded here from the prompt's tokens: the server would echo truncated text too."""
    return request.echo and request.truncate_prompt_tokens is not None


def chat_body(
    request: GenerationRequest,
    conversation: Conversation,
    *,
    model: str,
    max_model_len: int | None,
    streams: bool,
) -> dict[str, Any]:
    """Body of `POST /v1/chat/completions`.

    The server compiles its grammar from the same schemas that the chat template renders, so both come from the
    prepared request.
    """
    body = _generation_body(request, model=model, max_model_len=max_model_len, streams=streams)
    body |= conversation_fields(conversation)
    logprobs = request.sampling.logprobs
    if logprobs is not None:
        body["logprobs"] = True
        # The chosen token takes one of the places, even if it is not among the most likely.
        body["top_logprobs"] = min(logprobs + 1, MAX_TOP_LOGPROBS) if logprobs else 0
    return body


def tokenize_body(request: TokenizeRequest, *, model: str) -> dict[str, Any]:
    """Body of `POST /tokenize`."""
    body: dict[str, Any] = {"model": model, "return_token_strs": request.with_strings}
    if request.add_special_tokens is not None:
        body["add_special_tokens"] = request.add_special_tokens
    if isinstance(request.prompt, str):
        return body | {"prompt": request.prompt}
    known = ("messages", "tools", "add_generation_prompt", "continue_final_message")
    fields = conversation_fields(request.prompt)
    variables = _template_variables(fields)
    if variables:
        body["chat_template_kwargs"] = variables
    return body | {name: fields[name] for name in known if name in fields}


def _template_variables(fields: dict[str, Any]) -> dict[str, Any]:
    """All variables of the chat template; `/tokenize` has no fields for some of them.

    Source: vllm.entrypoints.openai.chat_completion.protocol.ChatCompletionRequest.build_chat_params (0.32.0).
    """
    variables: dict[str, Any] = {}
    if "documents" in fields:
        variables["documents"] = fields["documents"]
    if "reasoning_effort" in fields:
        variables["reasoning_effort"] = fields["reasoning_effort"]
        variables["enable_thinking"] = fields["reasoning_effort"] != "none"
    chosen: dict[str, Any] = fields.get("chat_template_kwargs", {})
    return variables | chosen


def _generation_body(
    request: GenerationRequest, *, model: str, max_model_len: int | None, streams: bool
) -> dict[str, Any]:
    body = sampling_fields(request.sampling) | {"model": model, "stream": streams}
    if max_model_len is not None and "max_tokens" in body:
        # vLLM rejects more than the context length; the rest of the context limits the output anyway.
        body["max_tokens"] = min(body["max_tokens"], max_model_len)
    if streams:
        body["stream_options"] = {"include_usage": True}
    if request.truncate_prompt_tokens is not None:
        body["truncate_prompt_tokens"] = request.truncate_prompt_tokens
    if request.add_special_tokens is not None:
        body["add_special_tokens"] = request.add_special_tokens
    return body


def delta(choice: ServerChoice, request: GenerationRequest) -> GenerationDelta:
    """The domain's delta for a choice of a completion.

    Raises:
        InferenceError: the engine aborted the choice.
    """
    logprobs = _logprobs(choice.logprobs) if choice.logprobs is not None else None
    return GenerationDelta(
        index=choice.index,
        text=choice.text,
        logprobs=logprobs,
        finish_reason=_finish_reason(choice.finish_reason, request),
        stop_sequence=stop_sequence(choice.stop_reason, request),
    )


def chat_delta(choice: ServerChatChoice, request: GenerationRequest) -> GenerationDelta:
    """The domain's delta for a choice of a chat completion or of a chunk.

    Raises:
        InferenceError: the engine aborted the choice.
    """
    message = choice.message or choice.delta or ServerChatMessage()
    calls = [
        ToolCallDelta(
            index=call.index if call.index is not None else position,
            id=call.id,
            name=call.function.name,
            arguments=call.function.arguments or "",
        )
        for position, call in enumerate(message.tool_calls or [])
    ]
    text = message.content or ""
    if choice.message is not None and text and not calls:
        text, calls = _parse_missed_calls(text, request)
    return GenerationDelta(
        index=choice.index,
        text=text,
        reasoning=message.reasoning or message.reasoning_content or "",
        tool_calls=calls,
        logprobs=_chat_logprobs(choice.logprobs) if choice.logprobs is not None else None,
        finish_reason=_finish_reason(choice.finish_reason, request),
        stop_sequence=stop_sequence(choice.stop_reason, request),
    )


def _parse_missed_calls(text: str, request: GenerationRequest) -> tuple[str, list[ToolCallDelta]]:
    """Parse forced calls that the server left in the text; returns the remaining text and the calls."""
    conversation = request.prompt
    if not isinstance(conversation, Conversation) or conversation.tool_choice not in FORCED:
        return text, []
    known = [tool.name for tool in conversation.tools]
    names = [conversation.tool_name] if conversation.tool_name is not None else known
    calls = parse_calls(text, hermes_shapes(names), lambda: f"chatcmpl-tool-{random_hex()}")
    return (text, []) if calls is None else ("", calls)


def usage_of(usage: ServerUsage, request: GenerationRequest) -> GenerationUsage:
    """The domain's usage for a server's."""
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return GenerationUsage(
        prompt_tokens=usage.prompt_tokens,
        # With `max_tokens` 0 the engine still generates one token, which is not part of the completion.
        completion_tokens=0 if request.sampling.max_tokens == 0 else usage.completion_tokens or 0,
        reasoning_tokens=completion.reasoning_tokens if completion is not None else None,
        cached_tokens=prompt.cached_tokens if prompt is not None else None,
    )


def _finish_reason(reason: str | None, request: GenerationRequest) -> FinishReason | None:
    if reason is None:
        return None
    try:
        # The calls themselves show that tools were called; the engine stopped.
        return FinishReason.STOP if reason == "tool_calls" else FinishReason(reason)
    except ValueError:
        raise generation_aborted(request) from None


def _logprobs(lists: ServerLogprobs) -> list[TokenLogprob]:
    return [
        TokenLogprob(token, logprob, list(top.items()) if top is not None else None)
        for token, logprob, top in zip(lists.tokens, lists.token_logprobs, lists.top_logprobs, strict=True)
    ]


def _chat_logprobs(logprobs: ServerChatLogprobs) -> list[TokenLogprob]:
    return [
        TokenLogprob(item.token, item.logprob, [(top.token, top.logprob) for top in item.top_logprobs])
        for item in logprobs.content or []
    ]
