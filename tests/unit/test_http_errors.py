import email.utils
import time

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.vllm.http.errors import error_message, from_status, parse_retry_after, translate_errors
from adapters.vllm.http.transport import NoResponseError
from domain.errors import (
    BackendBusyError,
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    BackendUnreachableError,
    ContextLengthError,
    InferenceError,
    InvalidRequestError,
    ModelNotFoundError,
)

GENERIC_MESSAGE = "The request was refused by the engine."


def refused(status: int, message: str = "No.", retry_after_s: int | None = None) -> InferenceError:
    return from_status(
        status,
        message,
        server="generation",
        param="prompt",
        model="m",
        max_model_len=256,
        retry_after_s=retry_after_s,
    )


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (httpx.ConnectTimeout("secret"), BackendUnreachableError),
        (httpx.PoolTimeout("secret"), BackendUnreachableError),
        (httpx.ReadTimeout("secret"), BackendTimeoutError),
        (httpx.WriteTimeout("secret"), BackendTimeoutError),
        (httpx.ConnectError("secret"), BackendUnreachableError),
        (httpx.UnsupportedProtocol("secret"), BackendUnreachableError),
        (httpx.ReadError("secret"), BackendUnavailableError),
        (httpx.RemoteProtocolError("secret"), BackendUnavailableError),
        (NoResponseError("secret"), BackendUnreachableError),
        (httpx.DecodingError("secret"), BackendUnavailableError),
        (msgspec.DecodeError("secret"), BackendFailedError),
        (msgspec.ValidationError("secret"), BackendFailedError),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret"), BackendFailedError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_transport_errors_become_domain_errors(raised, expected):
    with pytest.raises(expected) as caught, translate_errors("generation"):
        raise raised
    assert type(caught.value) is expected
    assert "generation server" in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("raised", [httpx.ConnectError("x"), httpx.ReadError("x"), httpx.ConnectTimeout("x")])
def test_an_unreachable_server_is_retryable_soon(raised):
    with pytest.raises(BackendUnavailableError) as caught, translate_errors("embedding"):
        raise raised
    assert caught.value.retry_after_s == 1


def test_domain_errors_propagate():
    error = ModelNotFoundError("No.")
    with pytest.raises(ModelNotFoundError) as caught, translate_errors("embedding"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequestError),
        (413, InvalidRequestError),
        (422, InvalidRequestError),
        (401, BackendFailedError),
        (403, BackendFailedError),
        (404, BackendFailedError),
        (429, BackendUnavailableError),
        (503, BackendUnavailableError),
        (500, BackendFailedError),
        (302, BackendFailedError),
    ],
)
def test_a_status_becomes_a_domain_error(status, expected):
    assert type(refused(status)) is expected


def test_a_rejected_api_key_is_not_the_clients_error():
    assert "key" in refused(401).message
    assert refused(401).status == 500


def test_a_server_without_the_model_is_reported():
    assert "'m'" in refused(404).message


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_is_retryable(status):
    assert refused(status).retry_after_s == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_with_retry_after_is_busy(status):
    error = refused(status, retry_after_s=7)
    assert (type(error), error.retry_after_s) == (BackendBusyError, 7)


def test_retry_after_counts_only_with_429_or_503():
    assert type(refused(500, retry_after_s=7)) is BackendFailedError


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("7", 7), (" 0 ", 0), ("", None), ("soon", None), ("-1", None), ("1.5", None), ("\u0667", None)],
)
def test_retry_after_is_whole_seconds(written, seconds):
    assert parse_retry_after(httpx.Headers({"retry-after": written.encode()})) == seconds


@pytest.mark.parametrize(("ahead_s", "low", "high"), [(100, 98, 101), (-100, 0, 0)])
def test_retry_after_may_be_a_date(ahead_s, low, high):
    date = email.utils.formatdate(time.time() + ahead_s, usegmt=True)
    assert low <= parse_retry_after(httpx.Headers({"retry-after": date})) <= high


def test_retry_after_may_be_missing():
    assert parse_retry_after(httpx.Headers()) is None


def test_a_rejection_is_translated():
    error = refused(400, "This model's maximum context length is 256 tokens.")
    assert isinstance(error, ContextLengthError)
    assert error.param == "prompt"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "Too long.", "type": "x", "code": 400}}', "Too long."),
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"error": null}', GENERIC_MESSAGE),
        (b"{}", GENERIC_MESSAGE),
        (b"", GENERIC_MESSAGE),
        (b"<html>Bad Gateway</html>", GENERIC_MESSAGE),
        (b"[1]", GENERIC_MESSAGE),
        (b'{"error": "\xff"}', GENERIC_MESSAGE),
    ],
)
def test_the_message_is_read_from_the_body(body, message):
    assert error_message(body) == message


@given(status=st.integers(300, 599), body=st.binary(max_size=40))
@settings(max_examples=20, deadline=None)
def test_any_response_becomes_an_error_with_a_message(status, body):
    assert refused(status, error_message(body)).message
