"""Fault tolerance settings: timeouts, retries and circuit breakers of remote servers."""

from typing import Annotated

import msgspec
from msgspec import Meta


class FaultTolerance(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that hold for all servers of a role."""

    connect_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds that connecting to a server may take.")
    ] = 5.0
    read_timeout_s: Annotated[
        float,
        Meta(
            gt=0, description="Seconds of silence from a server at work before its request fails with status 504."
        ),
    ] = 600.0
    retries: Annotated[
        int,
        Meta(ge=0, le=9999, description="Retries of a request that no server has begun to answer; 0 for none."),
    ] = 2
    retry_share: Annotated[
        float, Meta(ge=0, le=1, description="Most retries of all requests together, as a share of the requests.")
    ] = 0.2
    breaker_failures: Annotated[
        int,
        Meta(ge=1, description="Consecutive times that a server fails to answer before it is out of rotation."),
    ] = 5
    breaker_cool_down_s: Annotated[
        float, Meta(gt=0, description="Seconds that a server is out of rotation at first.")
    ] = 5.0
