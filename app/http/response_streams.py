"""Streams of the Responses API: of a response that is generated for this client, and of one in the background."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import msgspec
from litestar.types import Receive, Scope, Send

from app.http.disconnect import unless_disconnected
from app.http.errors import ClientDisconnectedError
from app.http.rate_limits import Reservation
from app.http.stream_formats import StreamFormat
from app.http.streaming import StreamedAnswer, StreamWriter
from app.responses.background import StoredEvent
from app.responses.field_names import response_field_names
from app.responses.preparation import Prepared
from app.responses.recording import Recorder
from app.telemetry.request import note_client_left
from domain.errors import InferenceError, InternalError
from domain.openai.common import UsageCounter
from domain.openai.responses.events import Event
from domain.openai.responses.presenter import ResponsePresenter
from domain.port import RequestContext
from domain.results import GenerationEvent
from domain.streams import open_stream

_encode_into = msgspec.json.Encoder().encode_into
_TYPE_START = len(b'{"type":"')


def encode_events(events: Sequence[Event]) -> bytes:
    """Encode events, each under its type as the event's name."""
    buffer = bytearray()
    for event in events:
        buffer += b"event: %b\ndata: " % event.type.encode()
        _encode_into(event, buffer, -1)
        buffer += b"\n\n"
    return cast(bytes, buffer)


def encode_stored(events: Sequence[StoredEvent]) -> bytes:
    """Encode events that are JSON already, and begin with their type."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (data[_TYPE_START : data.index(b'"', _TYPE_START)], data)
        for _, data in events
    )


class ResponseStream(StreamedAnswer[GenerationEvent]):
    """Streams a response while it is generated, and stores it.

    A failure of the engine ends the stream with `response.failed`, an unexpected one with `error` before that. If
    the client disconnects, the response is stored as cancelled.
    """

    def __init__(
        self,
        prepared: Prepared,
        context: RequestContext,
        recorder: Recorder | None,
        *,
        reservation: Reservation,
        keep_alive_s: float,
    ) -> None:
        """Create the answer; the generation starts when it is sent.

        Args:
            prepared: the response.
            context: metadata of the request.
            recorder: stores the response; None to store nothing.
            reservation: tokens charged to the client's key, corrected at the end.
            keep_alive_s: idle time in seconds after which a comment is sent; 0 for never.
        """
        self._response = prepared.presenter
        self._recorder = recorder
        super().__init__(
            prepared.model.backend.stream(prepared.generation, context),
            prepared.presenter.chunks,
            prepared.presenter,
            reservation=reservation,
            keep_alive_s=keep_alive_s,
            stream_format=StreamFormat(encode=encode_events, error=self._failed),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `StreamedAnswer`."""
        try:
            await unless_disconnected(self._run(scope, send), receive)
        except ClientDisconnectedError:
            note_client_left(scope)
            self._response.cancel()
            self._finish_soon()

    async def _write_all(self, writer: StreamWriter) -> None:
        presenter = self._response
        if self._recorder is not None:
            self._recorder.begin()
        try:
            with response_field_names():
                await self._write_output(writer)
        except Exception:
            if self._recorder is not None and not writer.has_begun:
                # It is answered with an error's status, and no id.
                self._recorder.discard()
            raise
        if events := presenter.end_output():
            await writer.write(encode_events(events))
        if self._recorder is not None:
            # A client that sees it completed can rely on it.
            await self._recorder.finish()

    async def _write_output(self, writer: StreamWriter) -> None:
        presenter = self._response
        async with self._stream as items:
            if self._recorder is not None:
                await self._recorder.begun()
            await writer.begin()
            await writer.write(encode_events(presenter.first_chunks()))
            async for item in items:
                if events := presenter.chunks(item):
                    await writer.write(encode_events(events))

    def _failed(self, error: InferenceError, _request_id: str) -> bytes:
        events = failure_events(self._response, error)
        self._finish_soon()
        return encode_events(events)

    def _finish_soon(self) -> None:
        if self._recorder is not None:
            self._recorder.finish_soon()


def failure_events(presenter: ResponsePresenter, error: InferenceError) -> list[Event]:
    """End a response as failed, with the events that end its stream."""
    first = [] if presenter.has_begun else presenter.first_chunks()
    ended = presenter.fail(error)
    broken = [presenter.error_chunk(error)] if isinstance(error, InternalError) else []
    return [*first, *ended, *broken, *presenter.last_chunks()]


class _NoPresenter:
    """What a stream of stored events has of a presenter: nothing."""

    def __init__(self) -> None:
        self.usage = UsageCounter()

    def last_chunks(self) -> Sequence[msgspec.Struct]:
        """There are none."""
        return ()


def replayed(events: AsyncGenerator[StoredEvent, None], *, keep_alive_s: float) -> StreamedAnswer[StoredEvent]:
    """An answer that streams the events of a background response; when the client leaves, the response goes on."""

    @asynccontextmanager
    async def opened() -> AsyncGenerator[AsyncIterator[StoredEvent], None]:
        async with aclosing(events), open_stream(events) as items:
            yield items

    chunks: Any = lambda event: (event,)  # noqa: E731
    return StreamedAnswer(
        opened(),
        chunks,
        _NoPresenter(),
        reservation=Reservation(None, 0),
        keep_alive_s=keep_alive_s,
        stream_format=StreamFormat(encode=encode_stored, error=_replay_failed),
    )


def _replay_failed(error: InferenceError, _request_id: str) -> bytes:
    event = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode(event)
