"""Completions and chat answers of a vLLM server, whole and streamed."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from adapters.vllm.dialect import fill_in_the_middle
from adapters.vllm.dialect.fill_in_the_middle import Markers
from adapters.vllm.dialect.greedy_copies import copied_events, copied_result, greedy_copies, single_choice
from adapters.vllm.dialect.prepare import prepare
from adapters.vllm.dialect.refusals import blames_form, given_up
from adapters.vllm.dialect.request_fields import is_cut
from adapters.vllm.http.errors import translated
from adapters.vllm.http.server import PartReader, RequestInfo, ServerPart, VLLMServer, portions
from adapters.vllm.http.tokens import detokenize, tokenize
from adapters.vllm.http.translate import chat_body, chat_delta, completion_body, delta, makes_echo, usage_of
from adapters.vllm.http.wire import ServerChatChoice, ServerModel, chat_decoder, completion_decoder
from domain.conversation import Conversation
from domain.errors import BackendFailedError, InferenceError, InvalidRequestError
from domain.port import RequestContext
from domain.requests import DetokenizeRequest, GenerationRequest, Prompt, TokenizeRequest
from domain.results import GenerationDelta, GenerationEvent, GenerationResult

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Generation:
    """Asks a server with a generation model; remembers what it has found out about that server."""

    def __init__(self, server: VLLMServer, model: ServerModel) -> None:
        self._server = server
        self._model = model
        self._markers: list[Markers] | None = None
        self._reasons: bool | None = None

    async def whole(self, request: GenerationRequest, context: RequestContext) -> GenerationResult:
        """The whole result.

        Raises:
            InferenceError: the server refused, failed or can't be reached.
        """
        copies = greedy_copies(request)
        if copies > 1:
            return copied_result(await self.whole(single_choice(request), context), copies)
        call = await self._prepared(request, context, streams=False)
        async with self._blaming(call, context):
            content = await self._server.post(call.path, call.body, context, call.info)
            with translated(self._server.name):
                part: ServerPart = call.decoder.decode(content)
                choices = await self._deltas(part, call, context)
        if part.usage is None:
            raise self._ended_too_early()
        choices.sort(key=lambda choice: choice.index)
        return GenerationResult(choices=choices, usage=usage_of(part.usage, request))

    async def stream(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """The events as they come.

        Raises, while iterating:
            InferenceError: the server refused, failed or can't be reached.
        """
        call = await self._prepared(request, context, streams=True)
        usage = None
        async with self._blaming(call, context):
            with translated(self._server.name):
                async with self._server.answer(call.path, call.body, context, call.info) as response:
                    reader = PartReader(self._server, call.decoder, call.info)
                    # Read past the end mark, or an error event, to the end of the body: only then can the
                    # connection be used again.
                    async for portion in portions(response):
                        for part in reader.feed(portion):
                            usage = part.usage or usage
                            for gained in await self._deltas(part, call, context):
                                yield gained
                    reader.finish()
        if usage is None:
            raise self._ended_too_early()
        yield usage_of(usage, request)

    async def _prepared(self, request: GenerationRequest, context: RequestContext, *, streams: bool) -> "_Call":
        """The request to one of the server's endpoints."""
        model, request = self._model, prepare(request)
        if isinstance(request.prompt, Conversation):
            body = chat_body(
                request, request.prompt, model=model.id, max_model_len=model.max_model_len, streams=streams
            )
            return _Call(request, CHAT, body, chat_decoder, RequestInfo("messages", request))
        if request.sampling.structured_outputs is not None:
            await self._require_forms(request.sampling.structured_outputs_param, context)
        prompt = await self._filled_in(request, request.prompt, context)
        body = completion_body(request, prompt, model=model.id, max_model_len=model.max_model_len, streams=streams)
        return _Call(request, COMPLETIONS, body, completion_decoder, RequestInfo("prompt", request))

    async def _deltas(self, part: ServerPart, call: "_Call", context: RequestContext) -> list[GenerationDelta]:
        """What a part of the answer adds to the choices."""
        deltas: list[GenerationDelta] = []
        for choice in part.choices:
            if isinstance(choice, ServerChatChoice):
                gained = chat_delta(choice, call.request)
            else:
                gained = delta(choice, call.request)
                if choice.prompt_token_ids is not None and makes_echo(call.request):
                    if call.echoed is None:
                        call.echoed = await self._echoed(call.request, choice.prompt_token_ids, context)
                    gained = msgspec.structs.replace(gained, text=call.echoed + gained.text)
            if gained.has_content:
                deltas.append(gained)
        return deltas

    @contextlib.asynccontextmanager
    async def _blaming(self, call: "_Call", context: RequestContext) -> AsyncGenerator[None, None]:
        """Finds out whose fault it is if the server gives a chat with a form up."""
        try:
            yield
        except InvalidRequestError as error:
            if (
                blames_form(error)
                and isinstance(call.request.prompt, Conversation)
                and await self._thinks(call.body, context)
            ):
                raise given_up(call.request, has_thought=True) from error
            raise

    def _ended_too_early(self) -> BackendFailedError:
        return BackendFailedError(f"The {self._server.name} server ended its answer too early.")

    async def _echoed(self, request: GenerationRequest, token_ids: list[int], context: RequestContext) -> str:
        """The text of the prompt as the model saw it, from its tokens."""
        if isinstance(request.prompt, str) and not is_cut(request, len(token_ids), self._model.max_model_len):
            return request.prompt
        return await detokenize(self._server, self._model, DetokenizeRequest(token_ids=token_ids), context)

    async def _thinks(self, body: dict[str, Any], context: RequestContext) -> bool:
        """Whether a chat with a form, which the server gave up, begins with thinking.

        The server says no more than that it failed. Where no grammar can be made of the form, it fails again
        before the first token.
        """
        kept = {name: value for name, value in body.items() if name not in ("stream_options", "logit_bias")}
        few = kept | {"max_tokens": 4, "min_tokens": 0, "n": 1, "stream": False}
        try:
            return bool(await self._reasoning_tokens(few, RequestInfo("messages"), context))
        except InferenceError:
            return False

    async def _require_forms(self, param: str, context: RequestContext) -> None:
        """Raise if the server would ignore a form of a completion's text.

        A server with a reasoning parser begins to constrain where thinking ends, which in a completion is
        nowhere. Its chat answers show it: only such a server counts reasoning tokens.
        """
        if self._reasons is None:
            body = {"model": self._model.id, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
            try:
                self._reasons = await self._reasoning_tokens(body, RequestInfo(param), context) is not None
            except InvalidRequestError:
                # It can't chat, so it has no use for such a parser.
                self._reasons = False
        if self._reasons:
            raise InvalidRequestError(
                f"'{param}' has no effect in v1/completions on the {self._server.name} server, which has a "
                "reasoning parser. Use v1/chat/completions.",
                param=param,
                code="unsupported_parameter",
            )

    async def _reasoning_tokens(
        self, body: dict[str, Any], info: RequestInfo, context: RequestContext
    ) -> int | None:
        """Tokens of thinking in the answer to a chat; None if the server does not count them."""
        content = await self._server.post(CHAT, body, context, info)
        with translated(self._server.name):
            usage = chat_decoder.decode(content).usage
        details = usage.completion_tokens_details if usage is not None else None
        return details.reasoning_tokens if details is not None else None

    async def _filled_in(self, request: GenerationRequest, prompt: Prompt, context: RequestContext) -> Prompt:
        """The prompt, or the one that asks for what stands before a suffix."""
        if request.suffix is None or not isinstance(prompt, str):
            return prompt
        if self._markers is None:
            # The first that the model has, if it has any.
            self._markers = [
                markers for markers in fill_in_the_middle.KNOWN if await self._knows(markers, context)
            ][:1]
        if not self._markers:
            raise fill_in_the_middle.not_supported(self._model.id)
        return self._markers[0].render(prompt, request.suffix)

    async def _knows(self, markers: Markers, context: RequestContext) -> bool:
        """Whether each marker is one token of the model's vocabulary."""
        for marker in markers:
            request = TokenizeRequest(prompt=marker, add_special_tokens=False)
            if len((await tokenize(self._server, self._model, request, context)).token_ids) != 1:
                return False
        return True


class _Call:
    """One generation as a request to one of the server's endpoints."""

    def __init__(
        self, request: GenerationRequest, path: str, body: dict[str, Any], decoder: Any, info: RequestInfo
    ) -> None:
        self.request = request
        self.path = path
        self.body = body
        self.decoder = decoder
        self.info = info
        self.echoed: str | None = None
        """The text of the prompt, once it is known."""


def events(
    generation: Generation, request: GenerationRequest, context: RequestContext
) -> AsyncGenerator[GenerationEvent, None]:
    """The events of a generation, whatever way the server has to be asked for them."""
    copies = greedy_copies(request)
    if copies > 1:
        return _copied(events(generation, single_choice(request), context), copies)
    return (
        generation.stream(request, context)
        if _can_stream(request)
        else _in_one_piece(generation, request, context)
    )


def _can_stream(request: GenerationRequest) -> bool:
    """Whether vLLM's server can stream what is asked for.

    It looks for the prompt's log probabilities in each choice's first part, and they are in one of them
    (vllm.entrypoints.openai.completion.serving.completion_stream_generator, 0.32.0).
    """
    sampling = request.sampling
    return not (request.echo and sampling.logprobs is not None and sampling.n > 1)


async def _copied(
    single: AsyncGenerator[GenerationEvent, None], copies: int
) -> AsyncGenerator[GenerationEvent, None]:
    async with contextlib.aclosing(single):
        async for event in copied_events(single, copies):
            yield event


async def _in_one_piece(
    generation: Generation, request: GenerationRequest, context: RequestContext
) -> AsyncGenerator[GenerationEvent, None]:
    result = await generation.whole(request, context)
    for choice in result.choices:
        yield choice
    yield result.usage
