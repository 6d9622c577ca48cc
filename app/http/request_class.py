"""Requests that the service sends to itself: whose they are, and which requests they give way to."""

import msgspec
from litestar.types import Scope

from domain.service_class import ServiceClass

IN_PROCESS = "in_process"
"""Where the state of a request's scope keeps it; absent for requests of clients, who can't set it."""


class InProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A request that comes from no connection."""

    owner: str
    """Whose request it is: it needs no API key, and counts against no limit of one."""
    service_class: ServiceClass


def in_process(scope: Scope) -> InProcess | None:
    """What is known of a request that the service sends to itself; None for that of a client."""
    state = scope.get("state")
    found: InProcess | None = None if state is None else state.get(IN_PROCESS)
    return found
