"""Implements `InferenceBackend` on the OpenAI endpoints of one vLLM server."""

import contextlib
import time
from collections.abc import AsyncGenerator

import httpx

from adapters.vllm.http.embedding import Embedding
from adapters.vllm.http.errors import translate_errors
from adapters.vllm.http.generation import Generation, events
from adapters.vllm.http.scoring import score
from adapters.vllm.http.server import RequestInfo, Timeouts, VLLMServer
from adapters.vllm.http.tokenizer import InputTokenizer, matching_tokenizer
from adapters.vllm.http.tokens import detokenize, tokenize
from adapters.vllm.http.wire import ServerModel, models_decoder
from adapters.vllm.operations import Operations
from domain.errors import BackendUnavailableError, InferenceError
from domain.port import Events, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import (
    DetokenizeRequest,
    EmbeddingRequest,
    GenerationRequest,
    Request,
    ResultT,
    ScoreRequest,
    TokenizeRequest,
)
from domain.results import EmbeddingResult, GenerationResult, ScoreResult, Tokenization
from domain.roles import ROLES, Role
from domain.streams import open_stream

TOKENIZER_CHECK = RequestContext(request_id="tokenizer-check")


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
        """Create the backend without connecting.

        Args:
            role: the model's role.
            base_url: the server's URL, with or without `/v1`.
            model: the model's name, on the server and for clients; None selects the first one listed.
            api_key: sent to the server as a bearer token.
            tokenizer: folder, file or hub name of an embedding model's tokenizer; None uses the
                location that the server reports for its model.
            timeouts: timeouts of connecting and of reading.
            transport: replaces `PooledTransport`.
        """
        self._role = role
        self._tokenizer_name = tokenizer
        self._server = VLLMServer(
            ROLES[role].noun, base_url, api_key=api_key, timeouts=timeouts, transport=transport
        )
        self._requested_model = model
        self._model: ServerModel | None = None
        self._embedding: Embedding | None = None
        self._generation: Generation | None = None
        self._operations = Operations(
            role,
            {
                EmbeddingRequest: self._embed,
                ScoreRequest: self._score,
                GenerationRequest: self._generate,
                TokenizeRequest: self._tokenize,
                DetokenizeRequest: self._detokenize,
            },
            model=lambda: self._name,
        )

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port. Reads `GET /v1/models`."""
        response = await self._server.get("/v1/models")
        if response.status_code != httpx.codes.OK:
            raise self._server.response_error(response, response.content, RequestInfo("model"))
        with translate_errors(self._server.name):
            served = models_decoder.decode(response.content).data
        model = self._model = self._select_model(served)
        self._server.model, self._server.max_model_len = model.id, model.max_model_len
        tokenizer = None
        if self._role is Role.EMBED:
            tokenizer = await self._find_tokenizer(model)
            self._embedding = Embedding(self._server, model, tokenizer)
        elif ROLES[self._role].generates:
            self._generation = Generation(self._server, model)
        return ModelCard(
            name=self._name,
            role=self._role,
            created=int(time.time()),
            max_model_len=model.max_model_len,
            reports_tokens_per_input=tokenizer is not None,
        )

    async def stop(self) -> None:
        """See the port. Closes the connections; the server keeps running."""
        await self._server.close()

    async def probe(self) -> None:
        """See the port. Calls vLLM's `GET /health`."""
        self._require_not_closed()
        response = await self._server.get("/health")
        if response.status_code != httpx.codes.OK:
            raise BackendUnavailableError(f"The {self._server.name} server reports that it is unhealthy.")

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        return await self._operations.call(request, context)

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port."""
        self._operations.require_generation(request)
        self._require_model()
        assert self._generation is not None
        async with open_stream(events(self._generation, request, context)) as found:
            yield found

    async def _embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        self._require_model()
        assert self._embedding is not None
        return await self._embedding.embed(request, context)

    async def _score(self, request: ScoreRequest, context: RequestContext) -> ScoreResult:
        return await score(self._server, self._require_model(), request, context)

    async def _generate(self, request: GenerationRequest, context: RequestContext) -> GenerationResult:
        self._require_model()
        assert self._generation is not None
        return await self._generation.generate(request, context)

    async def _tokenize(self, request: TokenizeRequest, context: RequestContext) -> Tokenization:
        return await tokenize(self._server, self._require_model(), request, context)

    async def _detokenize(self, request: DetokenizeRequest, context: RequestContext) -> str:
        return await detokenize(self._server, self._require_model(), request, context)

    async def _find_tokenizer(self, model: ServerModel) -> InputTokenizer | None:
        """The model's tokenizer, if it is on this machine and gives the same tokens as the server."""

        async def server_tokens(text: str) -> list[int]:
            found = await tokenize(self._server, model, TokenizeRequest(prompt=text), TOKENIZER_CHECK)
            return found.token_ids

        names = [self._tokenizer_name] if self._tokenizer_name else [model.root or "", model.id]
        try:
            with translate_errors(self._server.name):
                return await matching_tokenizer([name for name in names if name], server_tokens)
        except InferenceError:
            # A server without `/tokenize` can still embed.
            return None

    @property
    def _name(self) -> str:
        return self._model.id if self._model is not None else (self._requested_model or self._server.name)

    def _require_model(self) -> ServerModel:
        self._require_not_closed()
        if self._model is None:
            raise BackendUnavailableError(f"Not connected to the {self._server.name} server yet.")
        return self._model

    def _require_not_closed(self) -> None:
        if self._server.is_closed:
            raise BackendUnavailableError(f"The connection to the {self._server.name} server has been closed.")

    def _select_model(self, served: list[ServerModel]) -> ServerModel:
        names = [model.id for model in served]
        for model in served:
            if self._requested_model in (None, model.id):
                return model
        if not served:
            raise BackendUnavailableError(f"The {self._server.name} server does not serve any model.")
        raise BackendUnavailableError(
            f"The {self._server.name} server does not serve '{self._requested_model}'. "
            f"Available: {', '.join(names)}."
        )
