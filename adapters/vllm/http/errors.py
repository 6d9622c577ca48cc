"""From httpx's exceptions and a server's statuses to the domain's errors."""

import contextlib
import email.utils
import math
import re
import time
from collections.abc import Iterator

import httpx
import msgspec

from adapters.vllm.dialect.refusals import form_param, given_up, refusal
from adapters.vllm.http.transport import NoAnswerError
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
def translated(server: str) -> Iterator[None]:
    """Let only the domain's errors out.

    Args:
        server: how to call the server in a message: its role, never its address.
    """
    try:
        yield
    except httpx.TimeoutException as error:
        if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
            raise BackendUnreachableError(
                f"The {server} server can't be reached in time.", retry_after_s=1
            ) from error
        raise BackendTimeoutError(f"The {server} server did not answer in time.") from error
    except (httpx.ConnectError, httpx.UnsupportedProtocol) as error:
        raise BackendUnreachableError(f"The {server} server can't be reached.", retry_after_s=1) from error
    except NoAnswerError as error:
        raise BackendUnreachableError(
            f"The {server} server closed the connection without an answer.", retry_after_s=1
        ) from error
    except httpx.HTTPError as error:
        raise BackendUnavailableError(
            f"The connection to the {server} server broke off.", retry_after_s=1
        ) from error
    except ValueError as error:
        # Not JSON, not these fields, not base64, or lists that do not fit each other.
        raise BackendFailedError(
            f"The {server} server answered with something that is not vLLM's format."
        ) from error


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
    """The domain's error for a server's refusal.

    Args:
        status: the server's HTTP status, or the code inside an error event; not 2xx.
        message: what the server said.
        server: how to call the server in a message.
        param: the request parameter that carries the prompt or the inputs.
        model: the model's name for clients.
        max_model_len: context length in tokens, if known.
        request: the generation that was asked for, if it was one.
        retry_after_s: when the server wants to be asked again, if it said so.
    """
    if status in (400, 413, 422):
        return refusal(
            message, param=param, form_param=form_param(request), model=model, max_model_len=max_model_len
        )
    if status == 500 and request is not None and form_param(request) is not None:
        return given_up(request)
    if status in (401, 403):
        return BackendFailedError(f"The {server} server refuses the service's key.")
    if status == 404:
        return BackendFailedError(f"The {server} server does not serve '{model}' any more, or is no vLLM server.")
    if status in (429, 503) and retry_after_s is not None:
        return BackendBusyError(
            f"The {server} server has enough to do. Please try again later.", retry_after_s=retry_after_s
        )
    if status in (429, 503):
        return BackendUnavailableError(f"The {server} server is overloaded. Please try again.", retry_after_s=1)
    if status in (502, 504):
        return BackendUnavailableError(f"The proxy before the {server} server can't reach it.", retry_after_s=1)
    return BackendFailedError(f"The {server} server failed on this request. Please try again.")


def retry_after_of(headers: httpx.Headers) -> int | None:
    """Whole seconds in a Retry-After header, which may also be a date; None where there is none to understand."""
    written = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", written, re.ASCII):
        return int(written)
    try:
        until = email.utils.parsedate_to_datetime(written)
    except ValueError:
        return None
    return max(0, math.ceil(until.timestamp() - time.time()))


def message_of(body: bytes) -> str:
    """What the server said in the body of a refusal, or that it refused, where the body is not vLLM's."""
    try:
        said: ServerErrorBody = error_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "The request was refused by the engine."
    if said.error is None:
        return "The request was refused by the engine."
    return said.error if isinstance(said.error, str) else said.error.message
