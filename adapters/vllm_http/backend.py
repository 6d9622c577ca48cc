"""`InferenceBackend` over a vLLM server and its OpenAI endpoints."""

import contextlib
import time
from collections.abc import AsyncGenerator
from typing import cast

import httpx
import msgspec

from adapters.vllm_http.errors import from_status, message_of, translated
from adapters.vllm_http.sse import EventReader
from adapters.vllm_http.translate import completion_body, delta, embedding_body, embedding_result
from adapters.vllm_http.wire import (
    ServerCompletion,
    ServerError,
    ServerModel,
    completion_decoder,
    embeddings_decoder,
    models_decoder,
)
from domain.backend import (
    EmbeddingRequest,
    EmbeddingResult,
    GenerationEvent,
    GenerationRequest,
    GenerationUsage,
    ModelCard,
    RequestContext,
    Role,
)
from domain.errors import BackendFailedError, BackendUnavailableError, InferenceError, WrongEndpointError

SERVER_NAMES = {Role.EMBED: "embedding", Role.GENERATE: "generation"}
# Long answers arrive in many parts, so the read timeout is about silence, not about the whole.
TIMEOUT = httpx.Timeout(connect=5.0, read=600.0, write=60.0, pool=60.0)
LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=256)
DONE = b"[DONE]"

_encode = msgspec.json.Encoder().encode


def _portions(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as it comes, and something that can be closed, which httpx's annotation hides."""
    return cast(AsyncGenerator[bytes, None], response.aiter_raw())


class VLLMHTTPBackend:
    """One model on one vLLM server."""

    def __init__(
        self,
        *,
        role: Role,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Make the backend; nothing is sent yet.

        Args:
            role: what the model is for.
            base_url: the server's address, with or without `/v1`.
            model: the model's name, there and for clients; None takes the first one that the server has.
            api_key: sent to the server as a bearer token.
            transport: replaces httpx's own.
        """
        self._role = role
        self._server = SERVER_NAMES[role]
        self._wanted_model = model
        self._model: ServerModel | None = None
        self._native_dimensions: int | None = None
        # Streams are read as they come off the wire, so nothing may be compressed.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._client = httpx.AsyncClient(
            base_url=base_url.rstrip("/").removesuffix("/v1"),
            headers=headers,
            timeout=TIMEOUT,
            limits=LIMITS,
            transport=transport,
            trust_env=False,
        )

    async def start(self) -> ModelCard:
        """See the port: one look at `GET /v1/models`."""
        with translated(self._server):
            response = await self._client.get("/v1/models")
            if response.status_code != httpx.codes.OK:
                raise self._refused(response, "model")
            served = models_decoder.decode(response.content).data
        self._model = self._pick(served)
        return ModelCard(
            name=self._name,
            role=self._role,
            created=int(time.time()),
            max_model_len=self._model.max_model_len,
        )

    async def stop(self) -> None:
        """See the port: closes the connections; the server is somebody else's."""
        await self._client.aclose()

    async def probe(self) -> None:
        """See the port: vLLM's own `GET /health`."""
        self._require_open()
        with translated(self._server):
            response = await self._client.get("/health")
        if response.status_code != httpx.codes.OK:
            raise BackendUnavailableError(f"The {self._server} server says that it is not healthy.")

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        """See the port."""
        model = self._serving(Role.EMBED)
        dimensions = None if request.dimensions == self._native_dimensions else request.dimensions
        body = embedding_body(request, model=model.id, dimensions=dimensions)
        with translated(self._server):
            response = await self._client.post(
                "/v1/embeddings", content=_encode(body), headers=self._headers(context)
            )
            if response.status_code != httpx.codes.OK:
                raise self._refused(response, "input")
            result = embedding_result(embeddings_decoder.decode(response.content), expected=len(request.inputs))
        if request.dimensions is None:
            self._native_dimensions = result.dimensions
        return result

    async def generate(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See the port."""
        model = self._serving(Role.GENERATE)
        body = completion_body(request, model=model.id)
        usage = None
        with translated(self._server):
            async with self._client.stream(
                "POST", "/v1/completions", content=_encode(body), headers=self._headers(context)
            ) as response:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    raise self._refused(response, "prompt")
                async with contextlib.aclosing(self._completions(response, stream=request.stream)) as parts:
                    async for part in parts:
                        for choice in part.choices:
                            yield delta(choice)
                        usage = part.usage or usage
        if usage is None:
            raise BackendFailedError(f"The {self._server} server ended its answer too early.")
        # With nothing to generate the engine still takes one step, which is nobody's completion token.
        completion_tokens = (usage.completion_tokens or 0) if request.sampling.max_tokens else 0
        yield GenerationUsage(prompt_tokens=usage.prompt_tokens, completion_tokens=completion_tokens)

    async def _completions(
        self, response: httpx.Response, *, stream: bool
    ) -> AsyncGenerator[ServerCompletion, None]:
        """The answer as one part, or the parts of a stream up to its end mark."""
        if not stream:
            yield completion_decoder.decode(await response.aread())
            return
        reader = EventReader()
        done = False
        failure: InferenceError | None = None
        # Read past the end mark, or an error event, to the end of the body: only then can the connection be
        # used again.
        async with contextlib.aclosing(_portions(response)) as portions:
            async for portion in portions:
                for event in reader.feed(portion):
                    if event == DONE:
                        done = True
                        continue
                    part: ServerCompletion = completion_decoder.decode(event)
                    if part.error is not None:
                        failure = failure or self._failure(part.error)
                    elif failure is None:
                        yield part
        if failure is not None:
            raise failure
        if not done:
            raise BackendFailedError(f"The {self._server} server ended its answer too early.")

    def _failure(self, told: ServerError) -> InferenceError:
        # vLLM checks some things only after it has said 200: those are refusals all the same.
        return self._error(told.code if isinstance(told.code, int) else 500, told.message, "prompt")

    @property
    def _name(self) -> str:
        return self._model.id if self._model is not None else (self._wanted_model or self._server)

    def _serving(self, role: Role) -> ServerModel:
        if role is not self._role:
            raise WrongEndpointError(f"The model '{self._name}' can't {role}.", param="model")
        self._require_open()
        if self._model is None:
            raise BackendUnavailableError(f"The {self._server} server has not been reached yet.")
        return self._model

    def _require_open(self) -> None:
        if self._client.is_closed:
            raise BackendUnavailableError(f"The connection to the {self._server} server has been closed.")

    def _pick(self, served: list[ServerModel]) -> ServerModel:
        names = [model.id for model in served]
        for model in served:
            if self._wanted_model in (None, model.id):
                return model
        if not served:
            raise BackendUnavailableError(f"The {self._server} server serves no model.")
        raise BackendUnavailableError(
            f"The {self._server} server does not serve '{self._wanted_model}'. It serves: {', '.join(names)}."
        )

    def _headers(self, context: RequestContext) -> dict[str, str]:
        return {"x-request-id": context.request_id}

    def _refused(self, response: httpx.Response, param: str) -> InferenceError:
        return self._error(response.status_code, message_of(response.content), param)

    def _error(self, status: int, message: str, param: str) -> InferenceError:
        return from_status(
            status,
            message,
            server=self._server,
            param=param,
            model=self._name,
            max_model_len=self._model.max_model_len if self._model else None,
        )
