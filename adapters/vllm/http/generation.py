"""Generates completions and chat completions on a vLLM server, whole or streamed."""

import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from adapters.vllm.dialect import fill_in_the_middle
from adapters.vllm.dialect.fill_in_the_middle import Markers
from adapters.vllm.dialect.greedy_copies import copied_events, copied_result, greedy_copies, single_choice
from adapters.vllm.dialect.prepare import prepare
from adapters.vllm.dialect.refusals import generation_aborted, is_form_error
from adapters.vllm.dialect.request_fields import may_be_truncated
from adapters.vllm.dialect.text_logprobs import TextLogprobs
from adapters.vllm.http.errors import translate_errors
from adapters.vllm.http.prompt_length import PromptLength
from adapters.vllm.http.server import ChunkReader, RequestInfo, ServerChunk, VLLMServer, iter_raw
from adapters.vllm.http.tokens import detokenize, tokenize
from adapters.vllm.http.translate import chat_body, chat_delta, completion_body, delta, echoes_tokens, usage_of
from adapters.vllm.http.wire import ServerChatChoice, ServerModel, chat_decoder, completion_decoder
from domain.conversation import Conversation
from domain.errors import BackendFailedError, ContextLengthError, InferenceError, InvalidRequestError
from domain.port import RequestContext
from domain.requests import DetokenizeRequest, GenerationRequest, Prompt, TokenizeRequest
from domain.results import GenerationDelta, GenerationEvent, GenerationResult

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Generation:
    """Generates on one server; caches what it learns about the server's model."""

    def __init__(self, server: VLLMServer, model: ServerModel) -> None:
        self._server = server
        self._model = model
        self._lengths = PromptLength(server, model)
        self._markers: list[Markers] | None = None
        self._has_reasoning_parser: bool | None = None

    async def generate(self, request: GenerationRequest, context: RequestContext) -> GenerationResult:
        """Generate without streaming.

        Raises:
            InferenceError: the server returned an error or can't be reached.
        """
        copies = greedy_copies(request)
        if copies > 1:
            return copied_result(await self.generate(single_choice(request), context), copies)
        call = await self._to_server_request(request, context, streams=False)
        async with self._explain_errors(call, context):
            content = await self._server.post(call.path, call.body, context, call.info)
            with translate_errors(self._server.name):
                chunk: ServerChunk = call.decoder.decode(content)
                choices = await self._deltas(chunk, call, context)
        if chunk.usage is None:
            raise self._incomplete_error()
        choices.sort(key=lambda choice: choice.index)
        return GenerationResult(choices=choices, usage=usage_of(chunk.usage, request))

    async def stream(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Generate and stream the events.

        Raises, while iterating:
            InferenceError: the server returned an error or can't be reached.
        """
        call = await self._to_server_request(request, context, streams=True)
        usage = None
        async with self._explain_errors(call, context):
            with translate_errors(self._server.name):
                async with self._server.open_response(call.path, call.body, context, call.info) as response:
                    reader = ChunkReader(self._server, call.decoder, call.info)
                    # Read to the end of the body, past `[DONE]` or an error event: only then can the
                    # connection be reused.
                    async for data in iter_raw(response):
                        for chunk in reader.feed(data):
                            usage = chunk.usage or usage
                            for update in await self._deltas(chunk, call, context):
                                yield update
                    reader.finish()
        if usage is None:
            raise self._incomplete_error()
        yield usage_of(usage, request)

    async def _to_server_request(
        self, request: GenerationRequest, context: RequestContext, *, streams: bool
    ) -> "_ServerRequest":
        """The request to the server, for the endpoint that matches the prompt."""
        model, request = self._model, prepare(request)
        if isinstance(request.prompt, Conversation):
            await self._lengths.check_room(request, request.prompt, context)
            body = chat_body(
                request, request.prompt, model=model.id, max_model_len=model.max_model_len, streams=streams
            )
            info = RequestInfo("messages", request)
            return _ServerRequest(request, request.prompt, CHAT, body, chat_decoder, info)
        if request.sampling.structured_outputs is not None:
            await self._require_structured_outputs(request.sampling.structured_outputs_param, context)
        prompt = await self._with_suffix(request, request.prompt, context)
        await self._lengths.check_room(request, prompt, context)
        body = completion_body(request, prompt, model=model.id, max_model_len=model.max_model_len, streams=streams)
        info = RequestInfo("prompt", request)
        return _ServerRequest(request, prompt, COMPLETIONS, body, completion_decoder, info)

    async def _deltas(
        self, chunk: ServerChunk, call: "_ServerRequest", context: RequestContext
    ) -> list[GenerationDelta]:
        """The deltas of a response or of a chunk of it."""
        deltas: list[GenerationDelta] = []
        for choice in chunk.choices:
            if isinstance(choice, ServerChatChoice):
                update = chat_delta(choice, call.request)
                if call.request.sampling.logprobs is not None:
                    update = call.text_logprobs[choice.index].reduce(update)
            else:
                update = delta(choice, call.request)
                if choice.prompt_token_ids is not None and echoes_tokens(call.request):
                    if call.echo_text is None:
                        call.echo_text = await self._echo_text(call.request, choice.prompt_token_ids, context)
                    update = msgspec.structs.replace(update, text=call.echo_text + update.text)
            if update.has_content:
                deltas.append(update)
        return deltas

    @contextlib.asynccontextmanager
    async def _explain_errors(self, call: "_ServerRequest", context: RequestContext) -> AsyncGenerator[None, None]:
        """Add to the server's errors what it does not say.

        That is the length of a prompt that is too long, and that a chat with structured outputs was aborted after
        its reasoning.
        """
        try:
            yield
        except ContextLengthError as error:
            raise await self._lengths.with_count(error, call.request, call.prompt, context) from error
        except InvalidRequestError as error:
            if (
                is_form_error(error)
                and isinstance(call.request.prompt, Conversation)
                and await self._starts_with_reasoning(call.body, context)
            ):
                raise generation_aborted(call.request, has_reasoned=True) from error
            raise

    def _incomplete_error(self) -> BackendFailedError:
        return BackendFailedError(f"The {self._server.name} server sent an incomplete response.")

    async def _echo_text(self, request: GenerationRequest, token_ids: list[int], context: RequestContext) -> str:
        """The prompt's text as the model saw it."""
        if isinstance(request.prompt, str) and not may_be_truncated(
            request, len(token_ids), self._model.max_model_len
        ):
            return request.prompt
        return await detokenize(self._server, self._model, DetokenizeRequest(token_ids=token_ids), context)

    async def _starts_with_reasoning(self, body: dict[str, Any], context: RequestContext) -> bool:
        """Whether the answer to a chat that the server aborted starts with reasoning.

        The server reports only that it failed. A few tokens of the same chat tell: if the grammar can't be
        compiled, the server fails again before the first token.
        """
        fields = {name: value for name, value in body.items() if name not in ("stream_options", "logit_bias")}
        short = fields | {"max_tokens": 4, "min_tokens": 0, "n": 1, "stream": False}
        try:
            return bool(await self._reasoning_tokens(short, RequestInfo("messages"), context))
        except InferenceError:
            return False

    async def _require_structured_outputs(self, param: str, context: RequestContext) -> None:
        """Raise if the server would ignore structured outputs of a completion.

        A server with a reasoning parser applies the constraint after the end of the reasoning, which a completion
        never reaches. Only such a server reports `reasoning_tokens` in the usage of a chat completion.
        """
        if self._has_reasoning_parser is None:
            body = {"model": self._model.id, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
            try:
                self._has_reasoning_parser = (
                    await self._reasoning_tokens(body, RequestInfo(param), context) is not None
                )
            except InvalidRequestError:
                # A model that can't chat has no reasoning parser.
                self._has_reasoning_parser = False
        if self._has_reasoning_parser:
            raise InvalidRequestError(
                f"'{param}' has no effect in v1/completions on the {self._server.name} server, which has a "
                "reasoning parser. Use v1/chat/completions.",
                param=param,
                code="unsupported_parameter",
            )

    async def _reasoning_tokens(
        self, body: dict[str, Any], info: RequestInfo, context: RequestContext
    ) -> int | None:
        """The reasoning tokens of a chat completion; None if the server does not count them."""
        content = await self._server.post(CHAT, body, context, info)
        with translate_errors(self._server.name):
            usage = chat_decoder.decode(content).usage
        details = usage.completion_tokens_details if usage is not None else None
        return details.reasoning_tokens if details is not None else None

    async def _with_suffix(self, request: GenerationRequest, prompt: Prompt, context: RequestContext) -> Prompt:
        """The prompt, as a fill-in-the-middle prompt if the request has a suffix."""
        if request.suffix is None or not isinstance(prompt, str):
            return prompt
        if self._markers is None:
            # The first markers in the model's vocabulary, if any.
            self._markers = [
                markers for markers in fill_in_the_middle.KNOWN if await self._has_tokens(markers, context)
            ][:1]
        if not self._markers:
            raise fill_in_the_middle.not_supported(self._model.id)
        return self._markers[0].render(prompt, request.suffix)

    async def _has_tokens(self, markers: Markers, context: RequestContext) -> bool:
        """Whether each marker is a single token of the model's vocabulary."""
        for marker in markers:
            request = TokenizeRequest(prompt=marker, add_special_tokens=False)
            if len((await tokenize(self._server, self._model, request, context)).token_ids) != 1:
                return False
        return True


class _ServerRequest:
    """A generation request in the server's format."""

    def __init__(
        self,
        request: GenerationRequest,
        prompt: Prompt | Conversation,
        path: str,
        body: dict[str, Any],
        decoder: Any,
        info: RequestInfo,
    ) -> None:
        self.request = request
        self.prompt = prompt
        """As the server gets it."""
        self.path = path
        self.body = body
        self.decoder = decoder
        self.info = info
        self.echo_text: str | None = None
        """The prompt's text for `echo`, cached."""
        self.text_logprobs: defaultdict[int, TextLogprobs] = defaultdict(TextLogprobs)
        """For each choice of a chat."""


def events(
    generation: Generation, request: GenerationRequest, context: RequestContext
) -> AsyncGenerator[GenerationEvent, None]:
    """The events of a generation, streamed by the server if it can."""
    copies = greedy_copies(request)
    if copies > 1:
        return copied_events(events(generation, single_choice(request), context), copies)
    return (
        generation.stream(request, context) if _can_stream(request) else _as_events(generation, request, context)
    )


def _can_stream(request: GenerationRequest) -> bool:
    """Whether vLLM's server can stream the response.

    It expects the prompt's log probabilities in the first chunk of each choice, but only one choice has them
    (vllm.entrypoints.openai.completion.serving.completion_stream_generator, 0.32.0).
    """
    sampling = request.sampling
    return not (request.echo and sampling.logprobs is not None and sampling.n > 1)


async def _as_events(
    generation: Generation, request: GenerationRequest, context: RequestContext
) -> AsyncGenerator[GenerationEvent, None]:
    result = await generation.generate(request, context)
    for choice in result.choices:
        yield choice
    yield result.usage
