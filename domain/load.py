"""Admission limits and current load of a role."""

from typing import Annotated

import msgspec
from msgspec import Meta

from domain.service_class import ServiceClass


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Admission limits of a role. Tokens are estimates of prompts and answers."""

    max_running: Annotated[
        int, Meta(ge=1, description="Requests that the engine processes at a time; further ones wait.")
    ]
    max_waiting: Annotated[
        int,
        Meta(
            ge=0,
            le=9999,
            description="Requests that may wait for the engine; further ones are rejected with status 429.",
        ),
    ] = 1024
    max_running_tokens: Annotated[
        int,
        Meta(ge=1, description="Estimated tokens that the engine processes at a time, answers included."),
    ] = 1_000_000
    max_waiting_tokens: Annotated[
        int, Meta(ge=1, description="Estimated tokens of all requests that may wait for the engine.")
    ] = 4_000_000


class ClassLoad(msgspec.Struct, frozen=True, kw_only=True):
    """Current load of one class of service in a role. Tokens are estimates."""

    running: int
    waiting: int
    running_tokens: int
    waiting_tokens: int


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Current load of a role, and its limits."""

    running: int
    """Running requests of all classes, which share `bounds.max_running`."""
    waiting: int
    """Waiting interactive requests: those that count against `bounds.max_waiting`."""
    running_tokens: int
    waiting_tokens: int
    bounds: Bounds
    classes: dict[str, ClassLoad] = {}
    """The load of each class, by its name in lower case."""


def class_name(service_class: ServiceClass) -> str:
    """Name of a class in `/health` and in metrics."""
    return service_class.name.lower()
