"""Reads, streams and deletes stored responses, those included that are still generated."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import msgspec

from app.responses.background import FLUSH_INTERVAL_S, BackgroundRuns, StoredEvent
from app.responses.history import IS_OFF
from domain.errors import InvalidRequestError, StoredObjectNotFoundError
from domain.openai.responses.response import Response, ResponseError
from domain.state import UNFINISHED, Item, ResponseStatus, StateStore, StoredResponse

CANCEL_WAIT_S = 10.0
"""How long a request to cancel waits for another process to do it."""
RESPONSE = "Response"
_response_decoder = msgspec.json.Decoder(Response)


def interrupted(body: bytes) -> bytes:
    """The body of a response whose process has ended before it was finished."""
    response = _response_decoder.decode(body)
    error = ResponseError(
        code="server_error",
        message="The service was stopped while it generated the response. Please send it again.",
    )
    return msgspec.json.encode(response.ended(ResponseStatus.FAILED, error=error))


class StoredResponses:
    """The stored responses of all owners."""

    def __init__(self, state: StateStore | None, runs: BackgroundRuns | None) -> None:
        """Create it.

        Args:
            state: the store; None if nothing is stored.
            runs: the responses that this process generates in the background.
        """
        self._state = state
        self._runs = runs

    async def get(self, owner: str, response_id: str) -> bytes:
        """A response as JSON.

        Raises:
            StoredObjectNotFoundError: this owner has none of that id.
        """
        run = self._runs.find(owner, response_id) if self._runs is not None else None
        return run.body if run is not None else (await self.find(owner, response_id)).body

    async def find(self, owner: str, response_id: str) -> StoredResponse:
        """What is stored of a response.

        Raises:
            StoredObjectNotFoundError: this owner has none of that id.
        """
        stored = None if self._state is None else await self._state.response(owner, response_id)
        if stored is None:
            hint = "" if self._state is not None else IS_OFF
            raise StoredObjectNotFoundError(RESPONSE, response_id, param="response_id", hint=hint)
        return stored

    async def input_items(self, owner: str, response_id: str) -> Sequence[Item]:
        """The items of a response's input, oldest first: those of the responses that it continues, then its own.

        Raises:
            StoredObjectNotFoundError: this owner has none of that id.
        """
        stored = await self.find(owner, response_id)
        if stored.previous_id is None or self._state is None:
            return stored.input
        earlier = await self._state.history(owner, stored.previous_id)
        return [*(earlier or ()), *stored.input]

    async def delete(self, owner: str, response_id: str) -> None:
        """Delete a response; one that is still generated in the background is cancelled first, wherever it is.

        Raises:
            StoredObjectNotFoundError: this owner has none of that id.
        """
        run = self._runs.find(owner, response_id) if self._runs is not None else None
        if run is not None:
            await run.cancel()
        else:
            stored = await self.find(owner, response_id)
            if stored.is_background:
                await self._cancel_elsewhere(owner, stored)
        is_deleted = self._state is not None and await self._state.delete_response(owner, response_id)
        if run is not None and self._runs is not None:
            self._runs.forget(response_id)
        if not is_deleted:
            await self.find(owner, response_id)

    async def cancel(self, owner: str, response_id: str) -> bytes:
        """Cancel a background response; return it as JSON. One that has ended stays as it is.

        Raises:
            StoredObjectNotFoundError: this owner has none of that id.
            InvalidRequestError: it is no background response.
        """
        run = self._runs.find(owner, response_id) if self._runs is not None else None
        if run is not None:
            await run.cancel()
            return run.body
        stored = await self.find(owner, response_id)
        if not stored.is_background:
            raise InvalidRequestError(
                "Only responses that were created with 'background' set to true can be cancelled. Close the "
                "connection to cancel another one.",
                param="response_id",
            )
        return (await self._cancel_elsewhere(owner, stored)).body

    async def events(self, owner: str, response_id: str, after: int) -> AsyncGenerator[StoredEvent, None]:
        """The events of a background response with sequence numbers above `after`, to the last.

        Raises:
            StoredObjectNotFoundError: this owner has none of that id.
            InvalidRequestError: it is no background response.
        """
        run = self._runs.find(owner, response_id) if self._runs is not None else None
        if run is not None:
            return run.events(after)
        stored = await self.find(owner, response_id)
        if not stored.is_background:
            raise InvalidRequestError(
                "Only responses that were created with 'background' set to true can be streamed again.",
                param="stream",
            )
        return self._stored_events(owner, response_id, after)

    async def _stored_events(self, owner: str, response_id: str, after: int) -> AsyncGenerator[StoredEvent, None]:
        """The events that the process which generates the response has stored, until it has ended."""
        assert self._state is not None
        while True:
            # Looked up first: what an ended response has is all there is.
            stored = await self._state.response(owner, response_id)
            for number, data in await self._state.events(owner, response_id, after=after):
                yield number, data
                after = number
            if stored is None or stored.status not in UNFINISHED:
                return
            await asyncio.sleep(FLUSH_INTERVAL_S)

    async def _cancel_elsewhere(self, owner: str, stored: StoredResponse) -> StoredResponse:
        """Ask the process that generates a response to cancel it, and wait until it has."""
        assert self._state is not None
        deadline = asyncio.get_running_loop().time() + CANCEL_WAIT_S
        if stored.status in UNFINISHED:
            await self._state.request_cancel(owner, stored.id)
        while stored.status in UNFINISHED and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            stored = await self.find(owner, stored.id)
        return stored
