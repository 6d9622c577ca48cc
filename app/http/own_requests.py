"""Requests that the service sends to itself, without a connection."""

from litestar.types import Scope

OWNER = "owner"
"""Where the state of such a request's scope keeps whose it is: it needs no API key, and counts against no limit of
one. Absent for requests of clients, who can't set it."""


def stated_owner(scope: Scope) -> str | None:
    """The owner of a request that the service sends to itself; None for that of a client."""
    state = scope.get("state")
    owner: str | None = None if state is None else state.get(OWNER)
    return owner
