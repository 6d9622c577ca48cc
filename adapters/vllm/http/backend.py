"""`InferenceBackend` over a vLLM server and its OpenAI endpoints."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any, cast

import httpx
import msgspec

from adapters.vllm.dialect import fill_in_the_middle
from adapters.vllm.dialect.fill_in_the_middle import Markers
from adapters.vllm.dialect.refusals import blames_form, given_up, no_such_dimensions
from adapters.vllm.dialect.request_fields import is_cut
from adapters.vllm.http.errors import translated
from adapters.vllm.http.server import Asked, ServerPart, Timeouts, VLLMServer
from adapters.vllm.http.tokenizer import InputTokenizer, matching_tokenizer
from adapters.vllm.http.translate import (
    chat_body,
    chat_delta,
    completion_body,
    delta,
    embedding_body,
    embedding_result,
    makes_echo,
    tokenize_body,
    usage_of,
)
from adapters.vllm.http.wire import (
    ServerChatChoice,
    ServerModel,
    ServerText,
    ServerTokens,
    chat_decoder,
    completion_decoder,
    embeddings_decoder,
    models_decoder,
    text_decoder,
    tokens_decoder,
)
from domain.conversation import Conversation
from domain.errors import (
    BackendFailedError,
    BackendUnavailableError,
    InferenceError,
    InvalidRequestError,
    TooManyTokensError,
    WrongEndpointError,
)
from domain.gather import gather_all
from domain.matryoshka import has_several_lengths, shorten
from domain.port import ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import MAX_EMBEDDING_TOKENS, EmbeddingRequest, GenerationRequest, Prompt, TokenizeRequest
from domain.results import EmbeddingResult, GenerationEvent, Tokenization
from domain.roles import Role

SERVER_NAMES = {Role.EMBED: "embedding", Role.GENERATE: "generation"}
# Inputs of one request to the server, and requests at a time: small enough that no request is huge, and enough
# of them to keep the engine busy.
BATCH = 256
PARALLEL_BATCHES = 4
INLINE_CHARACTERS = 8192
"""Texts up to this length together are counted where they are, in some 2 ms at the most."""
CHECK = RequestContext(request_id="tokenizer-check")


class VLLMHTTPBackend:
    """One model on one vLLM server."""

    def __init__(
        self,
        *,
        role: Role,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        tokenizer: str | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - immutable
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Make the backend; nothing is sent yet.

        Args:
            role: what the model is for.
            base_url: the server's address, with or without `/v1`.
            model: the model's name, there and for clients; None takes the first one that the server has.
            api_key: sent to the server as a bearer token.
            tokenizer: folder, file or hub name of an embedding model's tokenizer; None looks where the server
                says its model is.
            timeouts: what is waited for.
            transport: replaces `PooledTransport`.
        """
        self._role = role
        self._tokenizer_name = tokenizer
        self._tokenizer: InputTokenizer | None = None
        self._server = VLLMServer(
            SERVER_NAMES[role], base_url, api_key=api_key, timeouts=timeouts, transport=transport
        )
        self._wanted_model = model
        self._model: ServerModel | None = None
        self._native_dimensions: int | None = None
        self._markers: list[Markers] | None = None
        self._reasons: bool | None = None

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port: one look at `GET /v1/models`."""
        response = await self._server.get("/v1/models")
        if response.status_code != httpx.codes.OK:
            raise self._server.refused(response, response.content, Asked("model"))
        with translated(self._server.name):
            served = models_decoder.decode(response.content).data
        self._model = self._pick(served)
        self._server.model, self._server.max_model_len = self._model.id, self._model.max_model_len
        if self._role is Role.EMBED:
            self._tokenizer = await self._find_tokenizer(self._model)
        return ModelCard(
            name=self._name,
            role=self._role,
            created=int(time.time()),
            max_model_len=self._model.max_model_len,
            reports_tokens_per_input=self._tokenizer is not None,
        )

    async def stop(self) -> None:
        """See the port: closes the connections; the server is somebody else's."""
        await self._server.close()

    async def probe(self) -> None:
        """See the port: vLLM's own `GET /health`."""
        self._require_open()
        response = await self._server.get("/health")
        if response.status_code != httpx.codes.OK:
            raise BackendUnavailableError(f"The {self._server.name} server says that it is not healthy.")

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        """See the port. Many inputs go to the server in several requests, a few at a time."""
        model = self._serving(Role.EMBED)
        _require_few_tokens(sum(len(item) for item in request.inputs if isinstance(item, list)))
        shorten_to, dimensions = self._lengths(model, request.dimensions)
        counts = await self._input_tokens(request)
        tokens = 0
        slots = asyncio.Semaphore(PARALLEL_BATCHES)

        async def embed_batch(inputs: list[Prompt]) -> EmbeddingResult:
            nonlocal tokens
            body = embedding_body(
                inputs,
                model=model.id,
                dimensions=dimensions,
                truncate=request.truncate_prompt_tokens,
                add_special_tokens=request.add_special_tokens,
            )
            async with slots:
                content = await self._server.post("/v1/embeddings", body, context, Asked("input"))
            with translated(self._server.name):
                result = embedding_result(embeddings_decoder.decode(content), expected=len(inputs))
            tokens += result.prompt_tokens
            _require_few_tokens(tokens)
            return result

        parts = await gather_all(
            [embed_batch(request.inputs[start : start + BATCH]) for start in range(0, len(request.inputs), BATCH)]
        )
        whole = EmbeddingResult(
            vectors=b"".join(part.vectors for part in parts),
            dimensions=parts[0].dimensions,
            prompt_tokens=tokens,
            input_tokens=counts if counts is not None and sum(counts) == tokens else None,
        )
        if dimensions is None:
            self._native_dimensions = whole.dimensions
        if shorten_to is None:
            return whole
        if shorten_to > whole.dimensions:
            raise no_such_dimensions(self._name)
        return shorten(whole, shorten_to)

    async def generate(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See the port."""
        model = self._serving(Role.GENERATE)
        request = _streamable(request)
        if isinstance(request.prompt, Conversation):
            body = chat_body(request, request.prompt, model=model.id, max_model_len=model.max_model_len)
            parts: AsyncGenerator[ServerPart, None] = self._server.parts(
                "/v1/chat/completions", body, context, chat_decoder, Asked("messages", request)
            )
        else:
            if request.sampling.structured_outputs is not None:
                await self._require_forms(model, request.sampling.form_param, context)
            prompt = await self._filled_in(request, request.prompt, context)
            body = completion_body(request, prompt, model=model.id, max_model_len=model.max_model_len)
            parts = self._server.parts(
                "/v1/completions", body, context, completion_decoder, Asked("prompt", request)
            )
        usage = None
        echoed: str | None = None
        try:
            with translated(self._server.name):
                async with contextlib.aclosing(parts):
                    async for part in parts:
                        for choice in part.choices:
                            if isinstance(choice, ServerChatChoice):
                                gained = chat_delta(choice, request)
                            else:
                                gained = delta(choice, request)
                                if choice.prompt_token_ids is not None and makes_echo(request):
                                    if echoed is None:
                                        echoed = await self._echoed(request, choice.prompt_token_ids, context)
                                    gained = msgspec.structs.replace(gained, text=echoed + gained.text)
                            if gained.says_something:
                                yield gained
                        usage = part.usage or usage
        except InvalidRequestError as error:
            if (
                blames_form(error)
                and isinstance(request.prompt, Conversation)
                and await self._thinks(body, context)
            ):
                raise given_up(request, has_thought=True) from error
            raise
        if usage is None:
            raise BackendFailedError(f"The {self._server.name} server ended its answer too early.")
        yield usage_of(usage, request)

    async def tokenize(self, request: TokenizeRequest, context: RequestContext) -> Tokenization:
        """See the port."""
        model = self._serving(self._role)
        param = "prompt" if isinstance(request.prompt, str) else "messages"
        content = await self._server.post(
            "/tokenize", tokenize_body(request, model=model.id), context, Asked(param)
        )
        with translated(self._server.name):
            found: ServerTokens = tokens_decoder.decode(content)
        return Tokenization(token_ids=found.tokens, strings=found.token_strs)

    async def detokenize(self, token_ids: list[int], context: RequestContext) -> str:
        """See the port."""
        model = self._serving(self._role)
        body = {"model": model.id, "tokens": token_ids}
        content = await self._server.post("/detokenize", body, context, Asked("tokens"))
        with translated(self._server.name):
            found: ServerText = text_decoder.decode(content)
        return found.prompt

    async def _echoed(self, request: GenerationRequest, token_ids: list[int], context: RequestContext) -> str:
        """The text of the prompt as the model saw it, from its tokens."""
        if isinstance(request.prompt, str) and not is_cut(request, len(token_ids), self._server.max_model_len):
            return request.prompt
        return await self.detokenize(token_ids, context)

    async def _find_tokenizer(self, model: ServerModel) -> InputTokenizer | None:
        """The model's tokenizer, if it is on this machine and agrees with the server."""

        async def asked(text: str) -> list[int]:
            content = await self._server.post(
                "/tokenize", {"model": model.id, "prompt": text}, CHECK, Asked("prompt")
            )
            found: ServerTokens = tokens_decoder.decode(content)
            return found.tokens

        names = [self._tokenizer_name] if self._tokenizer_name else [model.root or "", model.id]
        try:
            with translated(self._server.name):
                return await matching_tokenizer([name for name in names if name], asked)
        except InferenceError:
            # A server that does not tokenize for others still embeds.
            return None

    async def _input_tokens(self, request: EmbeddingRequest) -> list[int] | None:
        """Tokens of each input, or None where they can't be known here. Long inputs are counted in a thread."""
        inputs = request.inputs
        if request.truncate_prompt_tokens is not None:
            return None
        if isinstance(inputs[0], list):
            return [len(item) for item in inputs]
        if self._tokenizer is None or not request.add_special_tokens:
            return None
        texts = cast(list[str], inputs)
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self._tokenizer.count(texts)
        return await asyncio.to_thread(self._tokenizer.count, texts)

    async def _thinks(self, body: dict[str, Any], context: RequestContext) -> bool:
        """Whether a chat with a form, which the server gave up, begins with thinking.

        The server says no more than that it failed. Where no grammar can be made of the form, it fails again
        before the first token.
        """
        kept = {name: value for name, value in body.items() if name not in ("stream_options", "logit_bias")}
        few = kept | {"max_tokens": 4, "min_tokens": 0, "n": 1, "stream": False}
        try:
            content = await self._server.post("/v1/chat/completions", few, context, Asked("messages"))
            with translated(self._server.name):
                usage = chat_decoder.decode(content).usage
        except InferenceError:
            return False
        details = usage.completion_tokens_details if usage is not None else None
        return details is not None and bool(details.reasoning_tokens)

    async def _require_forms(self, model: ServerModel, param: str, context: RequestContext) -> None:
        """Raise if the server would pass over a form of a completion's text.

        A server with a reasoning parser begins to constrain where thinking ends, which in a completion is
        nowhere. It can be told by its chat answers: only such a server counts reasoning tokens.
        """
        if self._reasons is None:
            body = {"model": model.id, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
            try:
                content = await self._server.post("/v1/chat/completions", body, context, Asked(param))
                with translated(self._server.name):
                    usage = chat_decoder.decode(content).usage
                self._reasons = usage is not None and usage.completion_tokens_details is not None
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
            raise fill_in_the_middle.not_supported(self._name)
        return self._markers[0].render(prompt, request.suffix)

    async def _knows(self, markers: Markers, context: RequestContext) -> bool:
        """Whether each marker is one token of the model's vocabulary."""
        for marker in markers:
            found = await self.tokenize(TokenizeRequest(prompt=marker, add_special_tokens=False), context)
            if len(found.token_ids) != 1:
                return False
        return True

    def _lengths(self, model: ServerModel, wanted: int | None) -> tuple[int | None, int | None]:
        """The length to shorten vectors to here, and the length to ask the server for; None for its own."""
        if wanted is None or wanted == self._native_dimensions:
            return None, None
        # The server may not know of such a model that it can do this, and refuse.
        return (wanted, None) if has_several_lengths(model.id, model.root) else (None, wanted)

    @property
    def _name(self) -> str:
        return self._model.id if self._model is not None else (self._wanted_model or self._server.name)

    def _serving(self, role: Role) -> ServerModel:
        if role is not self._role:
            raise WrongEndpointError(f"The model '{self._name}' can't {role}.", param="model")
        self._require_open()
        if self._model is None:
            raise BackendUnavailableError(f"The {self._server.name} server has not been reached yet.")
        return self._model

    def _require_open(self) -> None:
        if self._server.is_closed:
            raise BackendUnavailableError(f"The connection to the {self._server.name} server has been closed.")

    def _pick(self, served: list[ServerModel]) -> ServerModel:
        names = [model.id for model in served]
        for model in served:
            if self._wanted_model in (None, model.id):
                return model
        if not served:
            raise BackendUnavailableError(f"The {self._server.name} server serves no model.")
        raise BackendUnavailableError(
            f"The {self._server.name} server does not serve '{self._wanted_model}'. It serves: {', '.join(names)}."
        )


def _streamable(request: GenerationRequest) -> GenerationRequest:
    """The request, or the same as a whole where vLLM's server can't stream it.

    It looks for the prompt's log probabilities in each choice's first part, and they are in one of them
    (vllm.entrypoints.openai.completion.serving.completion_stream_generator, 0.32.0).
    """
    sampling = request.sampling
    if request.stream and request.echo and sampling.logprobs is not None and sampling.n > 1:
        return msgspec.structs.replace(request, stream=False)
    return request


def _require_few_tokens(tokens: int) -> None:
    if tokens > MAX_EMBEDDING_TOKENS:
        raise TooManyTokensError(tokens, MAX_EMBEDDING_TOKENS)
