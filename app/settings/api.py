"""Settings of the API, independent of the engines."""

from typing import Annotated

import msgspec

from app.settings import parsers
from app.settings.groups import CLIENT_LIMITS, SERVICE


class ApiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of request handling, for the controllers."""

    max_body_bytes: Annotated[
        int,
        CLIENT_LIMITS.setting(
            "MAX_BODY_BYTES",
            "Largest request body in bytes; larger ones are rejected with status 413.",
            parsers.parse_positive_int,
        ),
    ] = 32 * 2**20
    allow_unknown_fields: Annotated[
        bool,
        SERVICE.setting(
            "ALLOW_UNKNOWN_FIELDS",
            "Whether unknown request fields are ignored (true) or rejected (false).",
            parsers.parse_yes_or_no,
        ),
    ] = False
    strict_tools: Annotated[
        bool,
        SERVICE.setting(
            "STRICT_TOOLS",
            "Whether unknown tools and fields in requests to /v1/responses and /v1/messages are rejected (true) or"
            " ignored (false).",
            parsers.parse_yes_or_no,
        ),
    ] = False
    keep_alive_s: Annotated[
        float,
        SERVICE.setting(
            "SSE_KEEP_ALIVE_S",
            "Seconds of silence after which a stream gets a comment, so that proxies keep it open; 0 for never.",
            parsers.parse_seconds,
        ),
    ] = 15.0
