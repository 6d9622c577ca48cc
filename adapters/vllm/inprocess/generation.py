"""Generates completions and chat completions on an AsyncLLM, with one generator between engine and port."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator
from typing import Any

from adapters.vllm.dialect import fill_in_the_middle
from adapters.vllm.dialect.context_length import with_count
from adapters.vllm.dialect.greedy_copies import copied_events, greedy_copies, single_choice
from adapters.vllm.dialect.prepare import prepare
from adapters.vllm.dialect.refusals import not_a_chat_model
from adapters.vllm.dialect.request_fields import may_be_truncated, stop_sequence
from adapters.vllm.dialect.text_logprobs import TextLogprobs
from adapters.vllm.inprocess.chat import Chat, RenderedChat
from adapters.vllm.inprocess.choices import Choices
from adapters.vllm.inprocess.running_engine import RunningEngine
from adapters.vllm.inprocess.translate import finish_reason, output_logprobs, sampling_params
from domain.conversation import Conversation
from domain.errors import ContextLengthError
from domain.port import RequestContext
from domain.requests import GenerationRequest, Prompt
from domain.results import GenerationDelta, GenerationEvent, GenerationUsage


def generate(
    running: RunningEngine,
    chat: Chat | None,
    request: GenerationRequest,
    context: RequestContext,
    *,
    streams: bool,
) -> AsyncGenerator[GenerationEvent, None]:
    """Generate and yield events; without `streams`, each choice is one delta at its end.

    Raises, when called or while iterating:
        InvalidRequestError: the engine does not support a part of the request.
        InferenceError: the engine has failed.
    """
    copies = greedy_copies(request)
    if copies > 1:
        return copied_events(generate(running, chat, single_choice(request), context, streams=streams), copies)
    prepared = prepare(request)
    if isinstance(request.prompt, Conversation):
        if chat is None:
            raise not_a_chat_model(running.name)
        # The chat template renders the client's original schemas.
        return _chat(running, chat, prepared, request.prompt, context, streams=streams)
    return _complete(running, prepared, request.prompt, context, streams=streams)


async def _complete(
    running: RunningEngine, request: GenerationRequest, prompt: Prompt, context: RequestContext, *, streams: bool
) -> AsyncGenerator[GenerationEvent, None]:
    """A completion."""
    with running.translate_errors("prompt", request) as progress:
        rendered = await _render(running, request, _with_suffix(running, prompt, request.suffix))
        prompt_tokens = len(rendered["prompt_token_ids"])
        request.require_room(running.max_model_len, prompt_tokens)
        room = running.max_model_len - prompt_tokens
        params = sampling_params(request, model_defaults=running.sampling_defaults, room=room, streams=streams)
        choices = Choices(request, prompt_text=_echo_text(running, request, rendered), tokenizer=running.tokenizer)
        outputs = running.engine.generate(
            rendered,
            params,
            running.request_id(context),
            # Completions have no reasoning, so structured outputs apply from the first token on.
            reasoning_ended=True,
            trace_headers=running.trace_headers(context),
            priority=context.service_class,
        )
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                progress.has_output = True
                running.record_progress()
                for delta in choices.deltas(output):
                    yield delta
        yield GenerationUsage(
            prompt_tokens=prompt_tokens,
            completion_tokens=choices.completion_tokens,
            cached_tokens=choices.cached_tokens,
        )


async def _chat(
    running: RunningEngine,
    chat: Chat,
    request: GenerationRequest,
    conversation: Conversation,
    context: RequestContext,
    *,
    streams: bool,
) -> AsyncGenerator[GenerationEvent, None]:
    """A chat completion, from the prepared request and the client's original conversation for the template."""
    with running.translate_errors("messages", request) as progress:
        rendered = await _render_chat(running, chat, request, conversation, streams=streams)
        prompt_tokens = len(rendered.prompt_token_ids)
        request.require_room(running.max_model_len, prompt_tokens)
        count = request.sampling.logprobs
        text_logprobs: defaultdict[int, TextLogprobs] = defaultdict(TextLogprobs)
        completion_tokens = 0
        cached_tokens: int | None = None
        outputs = running.engine.generate(
            rendered.engine_input,
            rendered.sampling_params(),
            running.request_id(context),
            trace_headers=running.trace_headers(context),
            priority=context.service_class,
            **rendered.engine_arguments(),
        )
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                progress.has_output = True
                running.record_progress()
                if cached_tokens is None:
                    cached_tokens = output.num_cached_tokens
                for choice in output.outputs:
                    completion_tokens += len(choice.token_ids)
                    has_reasoned = rendered.starts_with_reasoning and completion_tokens > 0
                    part = rendered.part(choice)
                    delta = GenerationDelta(
                        index=choice.index,
                        text=part.text,
                        reasoning=part.reasoning,
                        tool_calls=part.tool_calls,
                        logprobs=output_logprobs(choice, count, running.tokenizer) if count is not None else None,
                        finish_reason=finish_reason(choice, request, has_reasoned=has_reasoned),
                        stop_sequence=stop_sequence(choice.stop_reason, request),
                    )
                    if count is not None:
                        delta = text_logprobs[choice.index].reduce(delta)
                    if delta.has_content:
                        yield delta
        yield GenerationUsage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            reasoning_tokens=rendered.reasoning_tokens(),
            cached_tokens=cached_tokens,
        )


async def _render(running: RunningEngine, request: GenerationRequest, prompt: Prompt) -> Any:
    """The tokenized prompt."""
    adds = request.add_special_tokens is not False

    async def count() -> int:
        return len(prompt if isinstance(prompt, list) else await running.tokenize(prompt, add_special_tokens=adds))

    try:
        with running.translate_errors("prompt", request):
            (rendered,) = await running.render(
                [prompt],
                detokenize=request.echo,
                truncate=request.truncate_prompt_tokens,
                add_special_tokens=adds,
            )
    except ContextLengthError as error:
        raise await with_count(error, request, prompt, running.max_model_len, count) from error
    return rendered


async def _render_chat(
    running: RunningEngine,
    chat: Chat,
    request: GenerationRequest,
    conversation: Conversation,
    *,
    streams: bool,
) -> RenderedChat:
    """The rendered and tokenized conversation."""

    async def count() -> int:
        return len(await chat.tokenize(conversation, add_special_tokens=bool(request.add_special_tokens)))

    try:
        with running.translate_errors("messages", request):
            return await chat.render(request, conversation, streams=streams)
    except ContextLengthError as error:
        raise await with_count(error, request, conversation, running.max_model_len, count) from error


def _with_suffix(running: RunningEngine, prompt: Prompt, suffix: str | None) -> Prompt:
    """The prompt, as a fill-in-the-middle prompt if the request has a suffix."""
    if suffix is None or not isinstance(prompt, str):
        return prompt
    tokenizer = running.tokenizer
    for markers in fill_in_the_middle.KNOWN:
        if all(len(tokenizer.encode(marker, add_special_tokens=False)) == 1 for marker in markers):
            return markers.render(prompt, suffix)
    raise fill_in_the_middle.not_supported(running.name)


def _echo_text(running: RunningEngine, request: GenerationRequest, rendered: Any) -> str:
    """The prompt's text as the model saw it; empty if `echo` is off."""
    token_ids = rendered["prompt_token_ids"]
    if request.echo and may_be_truncated(request, len(token_ids), running.max_model_len):
        return str(running.tokenizer.decode(token_ids))
    return rendered.get("prompt") or ""
