"""The kinds of endpoints that have many members, each as a function that fills in what they have in common."""

from typing import Any, Literal

import msgspec

from app.http.endpoint import Endpoint, Handler
from app.http.error_formats import ANTHROPIC, OPENAI, ErrorFormat
from app.http.openapi import ERRORS

BODY_ERRORS = (408, 413, 415)
"""The statuses of errors in a request's body."""
UPLOAD_ERRORS = (403, 507)
"""The statuses of errors that only endpoints have that receive files."""
OPENAI_ERRORS = tuple(
    status for status in ERRORS if status not in ANTHROPIC.other_statuses and status not in UPLOAD_ERRORS
)
"""The statuses of errors of an engine's work in OpenAI's API."""


def inference(
    path: str,
    handler: Handler,
    body: type[msgspec.Struct],
    answer: type[msgspec.Struct],
    error_format: ErrorFormat = OPENAI,
    **more: Any,
) -> Endpoint:
    """An endpoint that gives work to an engine: a counted POST that can fail in every way."""
    own = (*OPENAI_ERRORS, *error_format.other_statuses)
    return Endpoint(
        method="POST",
        path=path,
        handler=handler,
        body=body,
        answer=answer,
        is_counted=True,
        errors=own,
        error_format=error_format,
        **more,
    )


def stored(
    method: Literal["GET", "POST", "DELETE"],
    path: str,
    handler: Handler,
    answer: type[msgspec.Struct],
    **more: Any,
) -> Endpoint:
    """An endpoint for what is stored; it gives no work to an engine."""
    own = (*BODY_ERRORS, 429) if "body" in more else (429,) if method == "POST" else ()
    upload = UPLOAD_ERRORS if more.get("body_type") == "multipart/form-data" else ()
    return Endpoint(
        method=method,
        path=path,
        handler=handler,
        answer=answer,
        is_counted=method == "POST",
        errors=(400, 401, 404, *own, 503, *upload),
        **more,
    )
