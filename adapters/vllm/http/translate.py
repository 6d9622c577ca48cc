"""Between the domain's words and the bodies of a vLLM server. Pure."""

import base64
from typing import Any

from adapters.vllm.dialect.forced_calls import hermes_shapes, whole_calls
from adapters.vllm.dialect.refusals import given_up
from adapters.vllm.dialect.request_fields import conversation_fields, sampling_fields
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

MOST_TOP_LOGPROBS = 20
"""vLLM's own limit unless its server is told otherwise (`--max-logprobs`)."""


def embedding_body(
    inputs: list[Prompt], *, model: str, dimensions: int | None, truncate: int | None, add_special_tokens: bool
) -> dict[str, Any]:
    """Body of `POST /v1/embeddings`, with the vectors asked for as exact bytes."""
    body: dict[str, Any] = {"model": model, "input": inputs, "encoding_format": "base64"}
    if dimensions is not None:
        body["dimensions"] = dimensions
    if truncate is not None:
        body["truncate_prompt_tokens"] = truncate
    if not add_special_tokens:
        body["add_special_tokens"] = False
    return body


def embedding_result(answer: ServerEmbeddings, *, expected: int) -> EmbeddingResult:
    """The domain's result for a server's answer.

    Raises:
        BackendFailedError: the answer lacks a vector, or the vectors differ in length.
    """
    items = sorted(answer.data, key=lambda item: item.index)
    rows = [base64.b64decode(item.embedding, validate=True) for item in items]
    lengths = {len(row) for row in rows}
    is_complete = [item.index for item in items] == list(range(expected))
    if not is_complete or len(lengths) != 1 or not rows[0] or len(rows[0]) % 4:
        raise BackendFailedError("The embedding server answered with an incomplete set of vectors.")
    return EmbeddingResult(
        vectors=b"".join(rows), dimensions=len(rows[0]) // 4, prompt_tokens=answer.usage.prompt_tokens
    )


def completion_body(
    request: GenerationRequest, prompt: Prompt, *, model: str, max_model_len: int | None, streams: bool
) -> dict[str, Any]:
    """Body of `POST /v1/completions`. What the request leaves open is left to the server's model."""
    body = _generation_body(request, model=model, max_model_len=max_model_len, streams=streams)
    body |= {"prompt": prompt, "echo": request.echo}
    if makes_echo(request):
        body["return_token_ids"] = True
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    return body


def makes_echo(request: GenerationRequest) -> bool:
    """Whether the echoed text is made here, of the prompt's tokens: the server echoes what it cuts off as well."""
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

    The server compiles its grammar from the schemas that the template shows to the model, so both are the prepared
    request's.
    """
    body = _generation_body(request, model=model, max_model_len=max_model_len, streams=streams)
    body |= conversation_fields(conversation)
    logprobs = request.sampling.logprobs
    if logprobs is not None:
        body["logprobs"] = True
        # The token that was chosen takes one of the places, likely or not.
        body["top_logprobs"] = min(logprobs + 1, MOST_TOP_LOGPROBS) if logprobs else 0
    return body


def tokenize_body(request: TokenizeRequest, *, model: str) -> dict[str, Any]:
    """Body of `POST /tokenize`."""
    body: dict[str, Any] = {"model": model, "return_token_strs": request.with_strings}
    if request.add_special_tokens is not None:
        body["add_special_tokens"] = request.add_special_tokens
    if isinstance(request.prompt, str):
        return body | {"prompt": request.prompt}
    known = ("messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")
    fields = conversation_fields(request.prompt)
    return body | {name: fields[name] for name in known if name in fields}


def _generation_body(
    request: GenerationRequest, *, model: str, max_model_len: int | None, streams: bool
) -> dict[str, Any]:
    body = sampling_fields(request.sampling) | {"model": model, "stream": streams}
    if max_model_len is not None and "max_tokens" in body:
        # More than the context holds is refused; what is left of the context is the same.
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
        InferenceError: the engine behind the server gave the choice up.
    """
    logprobs = _logprobs(choice.logprobs) if choice.logprobs is not None else None
    return GenerationDelta(
        index=choice.index,
        text=choice.text,
        logprobs=logprobs,
        finish_reason=_finish_reason(choice.finish_reason, request),
    )


def chat_delta(choice: ServerChatChoice, request: GenerationRequest) -> GenerationDelta:
    """The domain's delta for a choice of a chat completion, whole or in parts.

    Raises:
        InferenceError: the engine behind the server gave the choice up.
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
        text, calls = _overlooked_calls(text, request)
    return GenerationDelta(
        index=choice.index,
        text=text,
        reasoning=message.reasoning or message.reasoning_content or "",
        tool_calls=calls,
        logprobs=_chat_logprobs(choice.logprobs) if choice.logprobs is not None else None,
        finish_reason=_finish_reason(choice.finish_reason, request),
    )


def _overlooked_calls(text: str, request: GenerationRequest) -> tuple[str, list[ToolCallDelta]]:
    """What a server that found no call in a text of nothing but calls has overlooked, and what text is left."""
    conversation = request.prompt
    if not isinstance(conversation, Conversation) or conversation.tool_choice not in FORCED:
        return text, []
    known = [tool.name for tool in conversation.tools]
    names = [conversation.tool_name] if conversation.tool_name is not None else known
    calls = whole_calls(text, hermes_shapes(names), lambda: f"chatcmpl-tool-{random_hex()}")
    return (text, []) if calls is None else ("", calls)


def usage_of(usage: ServerUsage, request: GenerationRequest) -> GenerationUsage:
    """The domain's usage for a server's."""
    details = usage.completion_tokens_details
    return GenerationUsage(
        prompt_tokens=usage.prompt_tokens,
        # With nothing to generate the engine still takes one step, which is nobody's completion token.
        completion_tokens=0 if request.sampling.max_tokens == 0 else usage.completion_tokens or 0,
        reasoning_tokens=details.reasoning_tokens if details is not None else None,
    )


def _finish_reason(told: str | None, request: GenerationRequest) -> FinishReason | None:
    if told is None:
        return None
    try:
        # That tools were called is seen from the calls; the engine itself has stopped.
        return FinishReason.STOP if told == "tool_calls" else FinishReason(told)
    except ValueError:
        raise given_up(request) from None


def _logprobs(lists: ServerLogprobs) -> list[TokenLogprob]:
    return [
        TokenLogprob(token, logprob, list(top.items()) if top is not None else None)
        for token, logprob, top in zip(lists.tokens, lists.token_logprobs, lists.top_logprobs, strict=True)
    ]


def _chat_logprobs(told: ServerChatLogprobs) -> list[TokenLogprob]:
    return [
        TokenLogprob(item.token, item.logprob, [(top.token, top.logprob) for top in item.top_logprobs])
        for item in told.content or []
    ]
