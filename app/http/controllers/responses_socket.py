"""`/v1/responses` as a WebSocket: many responses over one connection, each with its new items only.

Source: OpenAI's guide "WebSocket mode". Each message `response.create` is the body of a request, and is answered
with the events of a stream. Messages with different `stream_id`s are answered at the same time, those with the
same one or none one after another. A response that is not stored can be continued on its connection. When the
connection closes, its responses are cancelled.
"""

import asyncio
from typing import Annotated, Any, cast

import msgspec
from litestar import Request, WebSocket
from litestar.exceptions import WebSocketDisconnect
from litestar.types import HTTPScope

from app.http.body_parts import body_parts, report_ignored
from app.http.codec import BodyDecoder, encode
from app.http.controllers.responses import generation_model, responses_of
from app.http.cors import is_origin_allowed
from app.http.errors import ClientDisconnectedError, as_inference_error, refuse_handshake
from app.http.ignored import note_ignored
from app.http.lanes import Lanes
from app.http.rate_limits import ACCOUNT, Account, owner_of, reserve
from app.http.requests import AnyRequest, context_of, options_of
from app.http.response_streams import failure_events
from app.http.websockets import DRAIN, SERVICE_RESTART
from app.responses.field_names import response_field_names
from app.responses.history import RecentResponses
from app.responses.preparation import Prepared, prepare
from app.responses.recording import Recorder
from app.telemetry.request import note_error, observation_of
from domain.errors import InferenceError, InvalidRequestError, OriginNotAllowedError, OverloadedError
from domain.openai.field import describe
from domain.openai.responses.body import ResponseBody
from domain.openai.responses.events import Event
from domain.random_id import random_hex

AnySocket = WebSocket[Any, Any, Any]
MAX_WAITING = 64
"""Messages of one connection that are answered or wait; more are refused."""
CREATE = "response.create"


class CreateEvent(ResponseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a response, as a message."""

    type: Annotated[str, describe("`response.create`.")]
    generate: Annotated[bool | None, describe("If false, the input is only kept to be continued.")] = None
    stream_id: Annotated[
        Annotated[str, msgspec.Meta(max_length=64)] | None, describe("Names the stream of the response.")
    ] = None
    event_id: Annotated[str | None, describe("Accepted and ignored.", effect="none")] = None


class _Envelope(msgspec.Struct):
    """What is read of a message before the rest."""

    type: Any = None
    stream_id: Any = None


class SocketErrorDetail(msgspec.Struct, kw_only=True):
    """OpenAI's schema `Error`."""

    type: str
    code: str | None
    message: str
    param: str | None


class SocketError(msgspec.Struct, kw_only=True):
    """A message that refuses a request."""

    type: str = "error"
    status: int
    error: SocketErrorDetail


decoder = BodyDecoder(CreateEvent, is_tolerant=True)
_envelope_decoder = msgspec.json.Decoder(_Envelope)


async def serve_responses(socket: AnySocket) -> None:
    """Serve one connection until it closes, or until the service ends."""
    if not is_origin_allowed(socket.headers.get("origin"), socket.headers.get("host"), socket.app.cors_config):
        await refuse_handshake(OriginNotAllowedError(), socket.send)
        return
    await socket.accept()
    connection = _Connection(socket)
    try:
        if await connection.read():
            await connection.finish()
            await socket.close(SERVICE_RESTART, "The service is restarting.")
    finally:
        await connection.cancel()


class _Connection:
    """One connection and its responses."""

    def __init__(self, socket: AnySocket) -> None:
        self._socket = socket
        self._recent = RecentResponses()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lanes = Lanes()
        self._has_left = False

    async def read(self) -> bool:
        """Answer each message, until the client disconnects (False) or the service ends (True)."""
        while True:
            # uvicorn reads on only when this message is received; until then it does not see that a client leaves.
            message: Any = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                self._has_left = True
                return False
            if DRAIN in message:
                return True
            content = message.get("text")
            content = content.encode() if content is not None else message.get("bytes") or b""
            if len(self._tasks) >= MAX_WAITING:
                await self._answer(content, is_surplus=True)
                continue
            task = asyncio.create_task(self._answer(content), name="response-over-websocket")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait for the responses under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """Cancel the responses under way."""
        for task in self._tasks:
            task.cancel()
        await self.finish()

    async def _answer(self, content: bytes, *, is_surplus: bool = False) -> None:
        request = self._request()
        observation = observation_of(request.scope)
        try:
            await self._serve(request, content, is_surplus=is_surplus)
            if observation is not None:
                observation.set_status(200)
        except ClientDisconnectedError:
            if observation is not None:
                observation.client_left()
        except asyncio.CancelledError:
            if observation is not None and self._has_left:
                observation.client_left()
            elif observation is not None:
                observation.abandoned()
            raise
        finally:
            if observation is not None:
                observation.end()

    async def _serve(self, request: AnyRequest, content: bytes, *, is_surplus: bool) -> None:
        """Answer one message, with an error if need be."""
        stream_id = None
        try:
            envelope = _read_envelope(content)
            stream_id = envelope.stream_id if isinstance(envelope.stream_id, str) else None
            if is_surplus:
                raise _too_many()  # noqa: TRY301
            async with self._lanes.turn(stream_id):
                await _Turn(self._socket, request, self._recent, stream_id).run(content)
        except ClientDisconnectedError:
            raise
        except Exception as exception:
            error = as_inference_error(exception, method="WEBSOCKET", path="/v1/responses")
            note_error(request.scope, error)
            if (observation := observation_of(request.scope)) is not None:
                observation.set_status(error.status)
            await _send(self._socket, _refusal(error), stream_id)

    def _request(self) -> AnyRequest:
        """A request over HTTP that stands for one message: it has the headers and the key of the connection."""
        socket = self._socket
        own = {"request_id": f"req_{random_hex()}"}
        if ACCOUNT in socket.scope["state"]:
            own[ACCOUNT] = socket.scope["state"][ACCOUNT]
        scope = cast(
            HTTPScope, {**socket.scope, "type": "http", "method": "POST", "http_version": "1.1", "state": own}
        )
        socket.app.telemetry.begin(scope, own["request_id"])  # type: ignore[attr-defined]
        return Request(scope, receive=_never)


class _Turn:
    """One response over a connection."""

    def __init__(
        self, socket: AnySocket, request: AnyRequest, recent: RecentResponses, stream_id: str | None
    ) -> None:
        self._socket = socket
        self._request = request
        self._recent = recent
        self._stream_id = stream_id

    async def run(self, content: bytes) -> None:
        """Answer a message with the events of its response."""
        request = self._request
        account: Account | None = request.scope["state"].get(ACCOUNT)
        if account is not None:
            account.take_request()
        body = _decode(request, content)
        try:
            prepared = await self._prepare(body)
            with response_field_names():
                await self._generate(body, prepared)
        except BaseException:
            if body.previous_response_id is not None:
                # What fails to be continued is not kept, as OpenAI does.
                self._recent.forget(body.previous_response_id)
            raise

    async def _prepare(self, body: CreateEvent) -> Prepared:
        request = self._request
        if body.background:
            raise InvalidRequestError(
                "'background' is not available over a WebSocket.", param="background", code="unsupported_parameter"
            )
        model, parts = generation_model(request, body.model), body_parts(request)
        prepared = await prepare(
            body,
            model,
            responses_of(request).history(owner_of(request), self._recent),
            parts.parts,
            context_of(request, model),
            is_stored=responses_of(request).stores(body),
            keeps_input=True,
        )
        report_ignored(request, parts)
        return prepared

    async def _generate(self, body: CreateEvent, prepared: Prepared) -> None:
        presenter, request = prepared.presenter, self._request
        context = context_of(request, prepared.model, tier=body.service_tier)
        recorder = None
        if presenter.response.store:
            recorder = responses_of(request).recorder(prepared, owner_of(request))
        try:
            if body.generate is False:
                await self._send(presenter.first_chunks())
                presenter.end_without_output()
            else:
                with reserve(request, [prepared.generation]) as reservation:
                    try:
                        if recorder is not None:
                            recorder.begin()
                        async with prepared.model.backend.stream(prepared.generation, context) as events:
                            if recorder is not None:
                                await recorder.begun()
                            await self._send(presenter.first_chunks())
                            async for event in events:
                                await self._send(presenter.chunks(event))
                    finally:
                        reservation.used = presenter.usage.total_tokens
                await self._send(presenter.end_output())
        except BaseException as exception:
            await self._break_off(prepared, exception, recorder)
            return
        self._recent.keep(presenter.response.id, [*prepared.earlier, *prepared.input, *presenter.items])
        if recorder is not None:
            await recorder.finish()
        await self._send(presenter.last_chunks())

    async def _break_off(self, prepared: Prepared, exception: BaseException, recorder: Recorder | None) -> None:
        """End a response that has failed, or whose client has left; a refused one has not begun."""
        presenter = prepared.presenter
        if not presenter.has_begun:
            if recorder is not None:
                recorder.discard()
            raise exception
        if isinstance(exception, ClientDisconnectedError) or not isinstance(exception, Exception):
            presenter.cancel()
            if recorder is not None:
                recorder.finish_soon()
            raise exception
        error = as_inference_error(exception)
        note_error(self._request.scope, error)
        events = failure_events(presenter, error)
        if recorder is not None:
            recorder.finish_soon()
        await self._send(events)

    async def _send(self, events: list[Event]) -> None:
        for event in events:
            await _send(self._socket, event, self._stream_id)


async def _send(socket: AnySocket, event: msgspec.Struct, stream_id: str | None) -> None:
    """Send one event. Raises ClientDisconnectedError if the client has left."""
    data = encode(event)
    if stream_id is not None:
        data = data[:-1] + b',"stream_id":' + encode(stream_id) + b"}"
    try:
        await socket.send_text(data.decode())
    except (OSError, RuntimeError, WebSocketDisconnect) as error:
        # uvicorn raises an OSError if the client has left, and a RuntimeError if the connection is being closed.
        # Litestar raises WebSocketDisconnect once it has received the message of that.
        raise ClientDisconnectedError from error


def _read_envelope(content: bytes) -> _Envelope:
    try:
        envelope = _envelope_decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"We could not parse the JSON of your message: {error}.") from None
    if envelope.type != CREATE:
        raise InvalidRequestError(
            f"Messages must have the type '{CREATE}'. Other types are not supported here.",
            param="type",
            code="invalid_value",
        )
    return envelope


def _decode(request: AnyRequest, content: bytes) -> CreateEvent:
    options = options_of(request)
    if options.strict_tools:
        return decoder.decode(content, allow_unknown=options.allow_unknown_fields)
    body, dropped = decoder.decode_tolerantly(content)
    if dropped:
        note_ignored(request.scope, dropped)
    return body


def _refusal(error: InferenceError) -> SocketError:
    return SocketError(
        status=error.status,
        error=SocketErrorDetail(type=error.type, code=error.code, message=error.message, param=error.param),
    )


def _too_many() -> InferenceError:
    return OverloadedError(
        f"This connection has {MAX_WAITING} unanswered messages. Please wait for an answer before the next one."
    )


async def _never() -> Any:
    """A message has no body to receive."""
    await asyncio.Event().wait()
