"""Responses, items and conversations to store."""

import time

from domain.state import UNFINISHED, Item, ResponseStatus, StoredConversation, StoredResponse

NOW = int(time.time())


def item(name: str, text: str = "") -> Item:
    return Item(name, f'{{"id":"{name}","text":"{text}"}}'.encode(errors="replace"))


def unfinished(name: str, *, owner: str = "alice", **fields: object) -> StoredResponse:
    values: dict[str, object] = {
        "id": name,
        "owner": owner,
        "created": NOW,
        "status": ResponseStatus.IN_PROGRESS,
        "body": f'{{"id":"{name}","status":"in_progress"}}'.encode(errors="replace"),
        "input": [item(f"in-{name}")],
        "output": [],
    }
    return StoredResponse(**(values | fields))  # type: ignore[arg-type]


def finished(name: str, *, owner: str = "alice", **fields: object) -> StoredResponse:
    values: dict[str, object] = {
        "status": ResponseStatus.COMPLETED,
        "body": f'{{"id":"{name}","status":"completed"}}'.encode(errors="replace"),
        "output": [item(f"out-{name}")],
    }
    return unfinished(name, owner=owner, **(values | fields))


def conversation(name: str, *, owner: str = "alice", **fields: object) -> StoredConversation:
    values: dict[str, object] = {"id": name, "owner": owner, "created": 1_700_000_000, "metadata": {"k": "v"}}
    return StoredConversation(**(values | fields))  # type: ignore[arg-type]


def interrupted(body: bytes) -> bytes:
    """The body of an unfinished response as that of a failed one."""
    return body.replace(b"in_progress", b"failed")


def is_failed(response: StoredResponse | None) -> bool:
    assert response is None or response.status not in UNFINISHED or b"failed" not in response.body
    return response is not None and response.status == ResponseStatus.FAILED and b"failed" in response.body
