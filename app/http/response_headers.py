"""Adds the headers that OpenAI sends with every answer, and those of an endpoint's own API.

Source: OpenAI's API reference, "Debugging requests"; openai-python reads `x-request-id` as `_request_id`, and
anthropic-python reads `request-id`.
"""

import re
import time

from litestar.types import HTTPScope, Message, Scope, Send

from app.http.error_formats import ERROR_FORMAT, OPENAI, ErrorFormat
from app.telemetry.request import observation_of
from domain.random_id import random_hex

ACCOUNT_HEADERS = "account_headers"
"""Where a request's state keeps what returns the headers about its key; absent where no keys are set."""
IGNORED = "ignored"
"""Where a request's state keeps what of its body was ignored, as the value of a header; absent for nothing."""
IGNORED_HEADER = b"x-memoria-ignored"
API_VERSION = b"2020-10-01"
# Short, and without characters that could end a header, a log line or a span's name.
_SANE = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


def stamped(scope: HTTPScope, send: Send, error_format: ErrorFormat = OPENAI) -> Send:
    """A `send` that adds the headers to any answer; sets the id and the error format of the request at once.

    `x-request-id` is the client's own if it is valid. `openai-processing-ms` is the time until the answer began.
    """
    began = time.perf_counter()
    own_id = _client_id(scope) or f"req_{random_hex()}".encode()
    state = scope.setdefault("state", {})
    state["request_id"] = own_id.decode()
    state[ERROR_FORMAT] = error_format
    id_header = error_format.request_id_header

    async def send_stamped(message: Message) -> None:
        if message["type"] == "http.response.start":
            observation = observation_of(scope)
            if observation is not None:
                observation.set_status(message["status"])
            took = f"{(time.perf_counter() - began) * 1000:.0f}"
            account_headers = scope["state"].get(ACCOUNT_HEADERS)
            message["headers"] = [
                *message.get("headers", ()),
                *(account_headers() if account_headers is not None else ()),
                *(((IGNORED_HEADER, scope["state"][IGNORED]),) if IGNORED in scope["state"] else ()),
                *(((id_header, own_id),) if id_header is not None else ()),
                (b"x-request-id", own_id),
                (b"openai-processing-ms", took.encode()),
                (b"openai-version", API_VERSION),
            ]
        await send(message)

    return send_stamped


def request_id(scope: Scope) -> str:
    """The id of the request."""
    return str(scope["state"]["request_id"])


def _client_id(scope: HTTPScope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE.fullmatch(value):
            return value
    return None
