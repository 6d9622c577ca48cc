"""Runs the request of a line: calls the application itself, without a connection.

So a line has the answer, the errors and the telemetry of the same request over HTTP. It differs in three ways: it
needs no API key, it counts against no key's limits, and what stands in its way for a while is waited for.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_random_exponential

from app.batches.waiting import wait_for_event
from app.http.own_requests import OWNER
from app.http.requests import SERVICE_CLASS
from app.telemetry.record import TEMPORARY
from domain.openai.malformed import MALFORMED
from domain.service_class import ServiceClass

log = logging.getLogger("memoria")

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""ASGI."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 15.0
"""Bounds of the pause before a line is tried again."""
LOST_ENGINE = frozenset({"engine_died", "engine_hung"})
"""Codes of errors that the request itself may have caused."""
SUSPECTED, GIVEN_UP = 2, 4
"""Lost engines after which a line runs alone, and after which its error is its answer."""


class LineAnswer(NamedTuple):
    """The answer to a request."""

    status: int
    request_id: str
    body: bytes


class LineExecutor:
    """Runs the requests of all batches of this process."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._alone = asyncio.Lock()

    async def run(self, path: str, body: bytes, *, owner: str, leave: asyncio.Event) -> LineAnswer | None:
        """The answer to a request; tries again while the engine is overloaded or unavailable.

        Args:
            path: the endpoint's.
            body: the request's, as JSON.
            owner: whose request it is.
            leave: once it is set, the request is cancelled.

        Returns:
            The answer, or None if the request was cancelled.
        """
        attempts = _Attempts()

        async def attempt() -> LineAnswer | None:
            if leave.is_set():
                return None
            # Other lines were lost with the same engine. Running one by one finds the one that ends it.
            async with self._alone if attempts.lost_engines >= SUSPECTED else nullcontext():
                return attempts.noted(await _Call(path, body, owner, leave).run(self._application))

        # Nearly all lines need no other attempt, and tenacity would take a tenth of their time.
        first = await attempt()
        if not attempts.wants_another(first):
            return first

        async def pause(seconds: float) -> None:
            await wait_for_event(leave, seconds)

        await pause(FIRST_RETRY_S)

        retrying = AsyncRetrying(
            sleep=pause,
            wait=wait_random_exponential(multiplier=FIRST_RETRY_S, max=LONGEST_RETRY_S),
            retry=retry_if_result(attempts.wants_another),
            retry_error_callback=_last,
        )
        answer: LineAnswer | None = await retrying(attempt)
        if answer is not None and answer.status in TEMPORARY:
            # Each attempt was logged at level debug alone.
            log.warning(
                "a line of a batch is given up (%s): the engine was lost %d times while it ran",
                answer.request_id,
                attempts.lost_engines,
            )
        return answer


class _Attempts:
    """What the attempts to run a line have come to."""

    def __init__(self) -> None:
        self.lost_engines = 0

    def noted(self, answer: LineAnswer | None) -> LineAnswer | None:
        if answer is not None and answer.status in TEMPORARY and _code(answer.body) in LOST_ENGINE:
            self.lost_engines += 1
        return answer

    def wants_another(self, answer: LineAnswer | None) -> bool:
        return answer is not None and answer.status in TEMPORARY and self.lost_engines < GIVEN_UP


class _Call:
    """One request, as the application sees it."""

    def __init__(self, path: str, body: bytes, owner: str, leave: asyncio.Event) -> None:
        self._path = path
        self._body: bytes | None = body
        self._size = len(body)
        self._state: dict[str, Any] = {OWNER: owner, SERVICE_CLASS: ServiceClass.BATCH}
        self._leave = leave
        self._status = 0
        self._parts: list[bytes] = []
        self._is_complete = False

    async def run(self, application: Application) -> LineAnswer | None:
        """The answer; None if the request was left before it was complete."""
        await application(self._scope(), self._receive, self._send)
        if not self._is_complete or self._status not in range(200, 600) or self._was_left():
            return None
        return LineAnswer(self._status, str(self._state["request_id"]), b"".join(self._parts))

    def _was_left(self) -> bool:
        # Without a body there is no answer: the application knows that its client has gone.
        return self._leave.is_set() and not any(self._parts)

    def _scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(self._size).encode()),
            ],
            "client": None,
            "server": None,
            "state": self._state,
        }

    async def _receive(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            self._parts.append(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)


class _Error(msgspec.Struct):
    code: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


_errors = msgspec.json.Decoder(_ErrorBody)


def _code(body: bytes) -> str | None:
    try:
        return _errors.decode(body).error.code
    except MALFORMED:
        return None


def _last(state: RetryCallState) -> LineAnswer | None:
    assert state.outcome is not None
    answer: LineAnswer | None = state.outcome.result()
    return answer
