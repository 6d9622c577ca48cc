"""HTTP client for one vLLM server: sends requests, reads whole or streamed responses, raises domain errors."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple, cast

import httpx
import msgspec

from adapters.vllm.http.errors import error_message, from_status, parse_retry_after, translate_errors
from adapters.vllm.http.sse import EventReader
from adapters.vllm.http.tracing import TRACE
from adapters.vllm.http.transport import PooledTransport
from adapters.vllm.http.wire import ServerChatCompletion, ServerCompletion, ServerError
from domain.errors import BackendFailedError, InferenceError
from domain.port import RequestContext
from domain.requests import GenerationRequest

CHECK_TIMEOUT_S = 10.0
"""Read timeout of health checks and of the model list."""
DONE = b"[DONE]"

ServerChunk = ServerCompletion | ServerChatCompletion

_encode = msgspec.json.Encoder().encode


class Timeouts(NamedTuple):
    """Timeouts in seconds."""

    connect_s: float = 5.0
    """For connecting."""
    read_s: float = 600.0
    """For receiving data. It limits the silence between two chunks and not the whole response."""


class RequestInfo(NamedTuple):
    """What an error message about a request refers to."""

    param: str
    """The request parameter that carries the prompt or the inputs."""
    request: GenerationRequest | None = None


class VLLMServer:
    """Client of one server. Raises only domain errors, except while a stream is read."""

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        api_key: str | None,
        timeouts: Timeouts,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        """Create the client without connecting.

        Args:
            name: the server's name in messages: its role, never its address.
            base_url: its address, with or without `/v1`.
            api_key: sent as a bearer token.
            timeouts: timeouts of connecting and of reading.
            transport: replaces `PooledTransport`; a request carries its trace in the extension TRACE.
        """
        self.name = name
        self.model: str = name
        """The model's name for clients; the server's name until `start` has read it."""
        self.max_model_len: int | None = None
        # Streams are read raw, so responses must not be compressed.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._base = httpx.URL(base_url.rstrip("/").removesuffix("/v1"))
        # As bytes, so that httpx does not convert them for every request.
        self._headers = [
            (b"host", self._base.netloc),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ]
        self._urls: dict[str, httpx.URL] = {}
        self._transport = transport if transport is not None else PooledTransport()
        self._request_extensions = _extensions(timeouts.connect_s, timeouts.read_s)
        self._check_extensions = _extensions(timeouts.connect_s, min(timeouts.read_s, CHECK_TIMEOUT_S))
        self.is_closed = False
        """Whether the client is closed."""

    async def close(self) -> None:
        """Close the connections; the server keeps running."""
        self.is_closed = True
        await self._transport.aclose()

    async def get(self, path: str) -> httpx.Response:
        """Send a GET request; returns the response with any status."""
        with translate_errors(self.name):
            async with self._send("GET", path) as response:
                await response.aread()
                return response

    async def post(self, path: str, body: dict[str, Any], context: RequestContext, info: RequestInfo) -> bytes:
        """Send a POST request; returns the body of the response.

        Raises:
            InferenceError: the server returned an error or can't be reached.
        """
        with translate_errors(self.name):
            async with self._send("POST", path, body, context) as response:
                content = await _content(response)
            if response.status_code != httpx.codes.OK:
                raise self.response_error(response, content, info)
            return content

    @contextlib.asynccontextmanager
    async def open_response(
        self, path: str, body: dict[str, Any], context: RequestContext, info: RequestInfo
    ) -> AsyncGenerator[httpx.Response, None]:
        """Send a POST request; the caller reads the body with `iter_raw`.

        Also raises httpx errors, which the caller translates.
        """
        async with self._send("POST", path, body, context) as response:
            if response.status_code != httpx.codes.OK:
                raise self.response_error(response, await _content(response), info)
            yield response

    @contextlib.asynccontextmanager
    async def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None, context: RequestContext | None = None
    ) -> AsyncGenerator[httpx.Response, None]:
        """Send a request; the body of the response is not read yet.

        The transport is called without `httpx.AsyncClient`, whose redirects, cookies and header merging cost as
        much as the rest of a request and are of no use here.
        """
        url = self._urls.get(path)
        if url is None:
            raw_path = self._base.raw_path.rstrip(b"/") + path.encode()
            url = self._urls[path] = self._base.copy_with(raw_path=raw_path)
        headers = self._headers
        if context is not None:
            headers = [*headers, (b"x-request-id", context.request_id.encode())]
        content = b""
        extensions = self._check_extensions if body is None else self._request_extensions
        if body is not None:
            content = _encode(body)
            headers = [*headers, (b"content-length", b"%d" % len(content))]
        if context is not None and context.trace is not None:
            extensions = {**extensions, TRACE: context.trace}
        # If a stream is passed, httpx adds no headers, which is slow.
        stream = httpx.ByteStream(content)
        request = httpx.Request(method, url, headers=headers, stream=stream, extensions=extensions)
        response = await self._transport.handle_async_request(request)
        try:
            yield response
        finally:
            await response.aclose()

    def response_error(self, response: httpx.Response, content: bytes, info: RequestInfo) -> InferenceError:
        """The domain's error for a response that is not 200."""
        return self._error(response.status_code, error_message(content), info, parse_retry_after(response.headers))

    def event_error(self, error: ServerError, info: RequestInfo, *, has_output: bool) -> InferenceError:
        """The domain's error for an error event in a stream."""
        # vLLM validates some parameters only after it has sent status 200, so an event can be a client error.
        # After the first output it is a server error, even if vLLM reports its own ValueError as 400.
        status = error.code if isinstance(error.code, int) else 500
        if has_output:
            status = max(status, 500)
        return self._error(status, error.message, info)

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


class ChunkReader:
    """Decodes the chunks of a streamed response."""

    def __init__(self, server: VLLMServer, decoder: Any, info: RequestInfo) -> None:
        """Create the reader.

        Args:
            server: the server that sends the response.
            decoder: decodes the data of one event.
            info: what an error message refers to.
        """
        self._server = server
        self._decoder = decoder
        self._info = info
        self._reader = EventReader()
        self._is_done = self._has_output = False
        self._failure: InferenceError | None = None

    def feed(self, data: bytes) -> list[ServerChunk]:
        """The chunks that this data completes; none after the server has reported an error."""
        chunks: list[ServerChunk] = []
        for event in self._reader.feed(data):
            if event == DONE:
                self._is_done = True
                continue
            chunk: ServerChunk = self._decoder.decode(event)
            if chunk.error is not None:
                self._failure = self._failure or self._server.event_error(
                    chunk.error, self._info, has_output=self._has_output
                )
            elif self._failure is None:
                self._has_output = True
                chunks.append(chunk)
        return chunks

    def finish(self) -> None:
        """Check that the response is complete; called at the end of the body.

        Raises:
            InferenceError: the server reported an error, or the stream lacks `[DONE]`.
        """
        if self._failure is not None:
            raise self._failure
        if not self._is_done:
            raise BackendFailedError(f"The {self._server.name} server sent an incomplete response.")


def _extensions(connect_s: float, read_s: float) -> dict[str, Any]:
    return {"timeout": httpx.Timeout(connect=connect_s, read=read_s, write=60.0, pool=60.0).as_dict()}


async def _content(response: httpx.Response) -> bytes:
    """The whole body, without httpx's decoders: it is not compressed."""
    parts = [data async for data in iter_raw(response)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def iter_raw(response: httpx.Response) -> httpx.AsyncByteStream:
    """The body as it arrives, without httpx's generators around it: it is not compressed."""
    return cast(httpx.AsyncByteStream, response.stream)
