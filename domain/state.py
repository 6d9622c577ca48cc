"""The port of the store that keeps responses and conversations.

An adapter implements `StateStore` on a database; `tests/integration/state` tests it against the contract below.
What is stored belongs to one owner, the holder of an API key, and is invisible to all others. Without API keys the
owner is empty.

Bodies and items are JSON objects as bytes, in the shapes of OpenAI's Responses API; the store does not read them.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class ResponseStatus(enum.StrEnum):
    """Where a response is (OpenAI's schema `Response.status`)."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({ResponseStatus.QUEUED, ResponseStatus.IN_PROGRESS})
"""The statuses of a response that a process is still working on."""
CONTINUABLE = frozenset({ResponseStatus.COMPLETED, ResponseStatus.INCOMPLETE})
"""The statuses of a response that can be continued."""


class Item(msgspec.Struct, frozen=True):
    """One item of a response's input or output, or of a conversation."""

    id: str
    data: bytes
    """The item as a JSON object, including its id."""


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One response."""

    id: str
    owner: str
    created: int
    """Unix time in seconds."""
    status: ResponseStatus
    body: bytes
    """The response as a JSON object, as `GET /v1/responses/{id}` returns it."""
    input: Sequence[Item]
    """The items of this request alone, without those of previous responses or of the conversation."""
    output: Sequence[Item] = ()
    """Empty unless the response is finished."""
    previous_id: str | None = None
    """The response that this one continues."""
    conversation_id: str | None = None
    """The conversation that this one belongs to."""
    is_background: bool = False


class StoredConversation(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation, without its items."""

    id: str
    owner: str
    created: int
    """Unix time in seconds."""
    metadata: Mapping[str, str] = {}


class StateStore(Protocol):
    """Stores responses, their items and events, and conversations.

    Errors: every method raises only `StateUnavailableError` (and `asyncio.CancelledError`).

    Durability: what an awaited method has written survives the end of the process at any moment. A response that
    is unfinished when its process ends is reported as failed by every method from then on. Its body is then what
    the function `interrupted`, which an adapter gets when it is created, makes of the unfinished one.
    """

    async def start(self) -> None:
        """Open the database, migrate it, and begin to remove entries beyond the limits.

        Raises:
            ConfigurationError: the database can't be used; the message says why and names the setting.
        """
        ...

    async def stop(self) -> None:
        """Finish pending writes and close the database. Safe to call at any time, and repeatedly."""
        ...

    def begin(self, response: StoredResponse) -> None:
        """Store an unfinished response soon, without waiting. Writes of one response keep their order.

        Reads through the same store see it at once. If it can't be stored, `finish` stores everything.
        """
        ...

    async def begin_durably(self, response: StoredResponse) -> None:
        """Store an unfinished response; returns once that is durable.

        For background responses, whose ids clients get before the work is done.
        """
        ...

    async def finish(self, response: StoredResponse) -> None:
        """Store a response that has ended, replacing what `begin` stored; returns once that is durable.

        If it belongs to a conversation and is completed or incomplete, its input and output are appended to the
        conversation in the same transaction. A response that was deleted meanwhile stays deleted.
        """
        ...

    async def response(self, owner: str, response_id: str) -> StoredResponse | None:
        """A response, or None if this owner has none of that id."""
        ...

    async def delete_response(self, owner: str, response_id: str) -> bool:
        """Delete a response, its items and events; False if this owner has none of that id.

        If it is unfinished, the process that works on it still calls `finish`, which then stores nothing.
        """
        ...

    async def discard_response(self, owner: str, response_id: str) -> None:
        """Delete a response that this store has begun and will never finish, whose id no client knows."""
        ...

    async def history(self, owner: str, response_id: str) -> Sequence[Item] | None:
        """Input and output of a response and all that it continues, oldest first.

        None if the response, or one that it continues, is missing or has not ended as completed or incomplete: an
        output that ends early is no basis for another one.
        """
        ...

    async def items(self, owner: str, ids: Sequence[str]) -> Mapping[str, Item]:
        """The owner's items with these ids, of responses and conversations; missing ones are left out."""
        ...

    def append_events(self, response_id: str, events: Sequence[tuple[int, bytes]]) -> None:
        """Store events of a background response soon, without waiting.

        If some can't be stored, the later ones of that response are left out too: there are never gaps. Those that
        follow `finish` are left out as well.

        Args:
            response_id: the response.
            events: sequence numbers, and the events as JSON objects.
        """
        ...

    async def events(self, owner: str, response_id: str, *, after: int) -> Sequence[tuple[int, bytes]]:
        """The stored events of a response with sequence numbers above `after`, in their order."""
        ...

    async def request_cancel(self, owner: str, response_id: str) -> bool:
        """Ask the process that works on a response to cancel it; False if this owner has no unfinished one."""
        ...

    async def cancel_requested(self, response_ids: Sequence[str]) -> Sequence[str]:
        """Those of the responses that were asked to be cancelled."""
        ...

    async def create_conversation(self, conversation: StoredConversation, items: Sequence[Item]) -> None:
        """Store a conversation with its first items."""
        ...

    async def conversation(self, owner: str, conversation_id: str) -> StoredConversation | None:
        """A conversation, or None if this owner has none of that id."""
        ...

    async def update_conversation(
        self, owner: str, conversation_id: str, metadata: Mapping[str, str]
    ) -> StoredConversation | None:
        """Replace a conversation's metadata; None if this owner has none of that id."""
        ...

    async def delete_conversation(self, owner: str, conversation_id: str) -> bool:
        """Delete a conversation and its items; False if this owner has none of that id."""
        ...

    async def conversation_items(self, owner: str, conversation_id: str) -> Sequence[Item] | None:
        """All items of a conversation, oldest first; None if this owner has no such conversation."""
        ...

    async def add_conversation_items(self, owner: str, conversation_id: str, items: Sequence[Item]) -> bool:
        """Append items to a conversation; False if this owner has no such conversation."""
        ...

    async def delete_conversation_item(self, owner: str, conversation_id: str, item_id: str) -> bool:
        """Delete an item of a conversation; False if this owner has no such item there."""
        ...
