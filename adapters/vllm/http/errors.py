"""Translates httpx exceptions and HTTP statuses of a server into domain errors."""

import contextlib
import email.utils
import math
import re
import time
from collections.abc import Iterator

import httpx
import msgspec

from adapters.vllm.dialect.refusals import constrained_param, generation_aborted, is_refusal, refusal
from adapters.vllm.http.transport import NoResponseError
from adapters.vllm.http.wire import ServerErrorBody, error_decoder
from domain.errors import (
    BackendBusyError,
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    BackendUnreachableError,
    InferenceError,
)
from domain.requests import GenerationRequest


@contextlib.contextmanager
def translate_errors(server: str) -> Iterator[None]:
    """Translate exceptions of httpx and of decoding into domain errors.

    Args:
        server: the server's name in messages: its role, never its address.
    """
    try:
        yield
    except httpx.TimeoutException as error:
        if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
            raise BackendUnreachableError(
                f"Timed out while connecting to the {server} server.", retry_after_s=1
            ) from error
        raise BackendTimeoutError(f"The {server} server did not answer in time.") from error
    except (httpx.ConnectError, httpx.UnsupportedProtocol) as error:
        raise BackendUnreachableError(f"The {server} server can't be reached.", retry_after_s=1) from error
    except NoResponseError as error:
        raise BackendUnreachableError(
            f"The {server} server closed the connection without a response.", retry_after_s=1
        ) from error
    except httpx.HTTPError as error:
        raise BackendUnavailableError(
            f"The connection to the {server} server was lost.", retry_after_s=1
        ) from error
    except ValueError as error:
        # Invalid JSON, fields or base64, or parallel lists of different lengths.
        raise BackendFailedError(f"The {server} server's response is not in vLLM's format.") from error


def from_status(
    status: int,
    message: str,
    *,
    server: str,
    param: str,
    model: str,
    max_model_len: int | None,
    request: GenerationRequest | None = None,
    retry_after_s: int | None = None,
) -> InferenceError:
    """The domain's error for a server's error response.

    Args:
        status: the server's HTTP status, or the code inside an error event; not 2xx.
        message: the server's error message.
        server: the server's name in messages.
        param: the request parameter that carries the prompt or the inputs.
        model: the model's name for clients.
        max_model_len: context length in tokens, if known.
        request: the generation request, if it was one.
        retry_after_s: the server's `Retry-After` in seconds, if it sent one.
    """
    if status in (400, 413, 422) or is_refusal(message):
        return refusal(
            message,
            param=param,
            constrained_param=constrained_param(request),
            model=model,
            max_model_len=max_model_len,
        )
    if status == 500 and request is not None and constrained_param(request) is not None:
        return generation_aborted(request)
    if status in (401, 403):
        return BackendFailedError(f"The {server} server rejected the service's API key.")
    if status == 404:
        return BackendFailedError(
            f"The {server} server no longer serves '{model}', serves it for another purpose, or is not a vLLM "
            "server."
        )
    if status in (429, 503) and retry_after_s is not None:
        return BackendBusyError(
            f"The {server} server is busy. Please try again later.", retry_after_s=retry_after_s
        )
    if status in (429, 503):
        return BackendUnavailableError(f"The {server} server is overloaded. Please try again.", retry_after_s=1)
    if status in (502, 504):
        return BackendUnavailableError(
            f"The proxy in front of the {server} server can't reach it.", retry_after_s=1
        )
    return BackendFailedError(f"The {server} server failed on this request. Please try again.")


def parse_retry_after(headers: httpx.Headers) -> int | None:
    """Seconds in a `Retry-After` header, which may also be a date; None if it is missing or invalid."""
    written = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", written, re.ASCII):
        return int(written)
    try:
        until = email.utils.parsedate_to_datetime(written)
    except ValueError:
        return None
    return max(0, math.ceil(until.timestamp() - time.time()))


def error_message(body: bytes) -> str:
    """The message in an error body, or a generic one if the body is not in vLLM's format."""
    try:
        parsed: ServerErrorBody = error_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "The request was refused by the engine."
    if parsed.error is None:
        return "The request was refused by the engine."
    return parsed.error if isinstance(parsed.error, str) else parsed.error.message
