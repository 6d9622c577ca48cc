"""One vLLM server: requests to it, its answers whole and in parts, and its refusals as the domain's errors."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple, cast

import httpx
import msgspec

from adapters.vllm.http.errors import from_status, message_of, retry_after_of, translated
from adapters.vllm.http.sse import EventReader
from adapters.vllm.http.tracing import TRACE
from adapters.vllm.http.transport import PooledTransport
from adapters.vllm.http.wire import ServerChatCompletion, ServerCompletion, ServerError
from domain.errors import BackendFailedError, InferenceError
from domain.port import RequestContext
from domain.requests import GenerationRequest

LOOK_TIMEOUT_S = 10.0
"""Longest silence of a server that is asked for nothing but a sign of life or what it serves."""
DONE = b"[DONE]"

ServerPart = ServerCompletion | ServerChatCompletion

_encode = msgspec.json.Encoder().encode


class Timeouts(NamedTuple):
    """What is waited for, in seconds."""

    connect_s: float = 5.0
    """For a connection."""
    read_s: float = 600.0
    """For a sign of life of a server at work: long answers arrive in many parts, so this is about silence, and
    not about the whole."""


class RequestInfo(NamedTuple):
    """What a refusal would be about."""

    param: str
    """The request parameter that carries the prompt or the inputs."""
    request: GenerationRequest | None = None


class VLLMServer:
    """Speaks HTTP; raises only the domain's errors, save from a stream that is being read."""

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        api_key: str | None,
        timeouts: Timeouts,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        """Make the client; nothing is sent yet.

        Args:
            name: how to call the server in a message: its role, never its address.
            base_url: its address, with or without `/v1`.
            api_key: sent as a bearer token.
            timeouts: what is waited for.
            transport: replaces httpx's own; a request's trace is in its extension TRACE.
        """
        self.name = name
        self.model: str = name
        """The model's name for clients, once it is known."""
        self.max_model_len: int | None = None
        # Streams are read as they come off the wire, so nothing may be compressed.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._base = httpx.URL(base_url.rstrip("/").removesuffix("/v1"))
        # As bytes, which httpx need not convert for every request.
        self._headers = [
            (b"host", self._base.netloc),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ]
        self._urls: dict[str, httpx.URL] = {}
        self._transport = transport if transport is not None else PooledTransport()
        self._at_work = _extensions(timeouts.connect_s, timeouts.read_s)
        self._at_a_look = _extensions(timeouts.connect_s, min(timeouts.read_s, LOOK_TIMEOUT_S))
        self.is_closed = False
        """Whether no request can be sent any more."""

    async def close(self) -> None:
        """Close the connections; the server is somebody else's."""
        self.is_closed = True
        await self._transport.aclose()

    async def get(self, path: str) -> httpx.Response:
        """The server's answer, whatever its status."""
        with translated(self.name):
            async with self._sent("GET", path) as response:
                await response.aread()
                return response

    async def post(self, path: str, body: dict[str, Any], context: RequestContext, info: RequestInfo) -> bytes:
        """The body of the server's answer.

        Raises:
            InferenceError: the server refused or can't be reached.
        """
        with translated(self.name):
            async with self._sent("POST", path, body, context) as response:
                content = await _content(response)
            if response.status_code != httpx.codes.OK:
                raise self.refused(response, content, info)
            return content

    @contextlib.asynccontextmanager
    async def answer(
        self, path: str, body: dict[str, Any], context: RequestContext, info: RequestInfo
    ) -> AsyncGenerator[httpx.Response, None]:
        """The server's answer, whose body is still to be read (`portions`).

        Raises httpx's errors as well: whoever reads translates them.
        """
        async with self._sent("POST", path, body, context) as response:
            if response.status_code != httpx.codes.OK:
                raise self.refused(response, await _content(response), info)
            yield response

    @contextlib.asynccontextmanager
    async def _sent(
        self, method: str, path: str, body: dict[str, Any] | None = None, context: RequestContext | None = None
    ) -> AsyncGenerator[httpx.Response, None]:
        """A request's response, whose body is still to be read.

        The transport is asked without `httpx.AsyncClient` around it, whose redirects, cookies and merging of
        headers cost as much as the rest of a request and mean nothing to an engine.
        """
        url = self._urls.get(path)
        if url is None:
            raw_path = self._base.raw_path.rstrip(b"/") + path.encode()
            url = self._urls[path] = self._base.copy_with(raw_path=raw_path)
        headers = self._headers
        if context is not None:
            headers = [*headers, (b"x-request-id", context.request_id.encode())]
        content = b""
        extensions = self._at_a_look if body is None else self._at_work
        if body is not None:
            content = _encode(body)
            headers = [*headers, (b"content-length", b"%d" % len(content))]
        if context is not None and context.trace is not None:
            extensions = {**extensions, TRACE: context.trace}
        # With a stream of its own httpx adds no headers, which it does slowly.
        stream = httpx.ByteStream(content)
        request = httpx.Request(method, url, headers=headers, stream=stream, extensions=extensions)
        response = await self._transport.handle_async_request(request)
        try:
            yield response
        finally:
            await response.aclose()

    def refused(self, response: httpx.Response, content: bytes, info: RequestInfo) -> InferenceError:
        """The domain's error for an answer that is not 200."""
        return self._error(response.status_code, message_of(content), info, retry_after_of(response.headers))

    def failure(self, told: ServerError, info: RequestInfo, *, has_output: bool) -> InferenceError:
        """The domain's error for an error event inside of a stream."""
        # vLLM checks some things only after it has said 200: those are refusals all the same. Once it answers it
        # has refused nothing, whatever it makes of a ValueError of its own.
        status = told.code if isinstance(told.code, int) else 500
        if has_output:
            status = max(status, 500)
        return self._error(status, told.message, info)

    def _error(
        self, status: int, message: str, info: RequestInfo, retry_after_s: int | None = None
    ) -> InferenceError:
        return from_status(
            status,
            message,
            server=self.name,
            param=info.param,
            request=info.request,
            model=self.model,
            max_model_len=self.max_model_len,
            retry_after_s=retry_after_s,
        )


class PartReader:
    """Parts of a streamed answer, from its bytes."""

    def __init__(self, server: VLLMServer, decoder: Any, info: RequestInfo) -> None:
        """Make it.

        Args:
            server: whose answer it is.
            decoder: decodes the data of one event.
            info: what a refusal would be about.
        """
        self._server = server
        self._decoder = decoder
        self._info = info
        self._reader = EventReader()
        self._is_done = self._has_output = False
        self._failure: InferenceError | None = None

    def feed(self, portion: bytes) -> list[ServerPart]:
        """The parts that this portion completes; none after the server has reported an error."""
        parts: list[ServerPart] = []
        for event in self._reader.feed(portion):
            if event == DONE:
                self._is_done = True
                continue
            part: ServerPart = self._decoder.decode(event)
            if part.error is not None:
                self._failure = self._failure or self._server.failure(
                    part.error, self._info, has_output=self._has_output
                )
            elif self._failure is None:
                self._has_output = True
                parts.append(part)
        return parts

    def finish(self) -> None:
        """The body is at its end.

        Raises:
            InferenceError: the server reported an error, or the stream has no end mark.
        """
        if self._failure is not None:
            raise self._failure
        if not self._is_done:
            raise BackendFailedError(f"The {self._server.name} server ended its answer too early.")


def _extensions(connect_s: float, read_s: float) -> dict[str, Any]:
    return {"timeout": httpx.Timeout(connect=connect_s, read=read_s, write=60.0, pool=60.0).as_dict()}


async def _content(response: httpx.Response) -> bytes:
    """The whole body. Nothing compresses it, so httpx's decoders need not look at it."""
    parts = [portion async for portion in portions(response)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def portions(response: httpx.Response) -> httpx.AsyncByteStream:
    """The body as it comes. Nothing compresses it, so httpx's own generators around it are not needed."""
    return cast(httpx.AsyncByteStream, response.stream)
