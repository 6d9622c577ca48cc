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

NO_WORDS = "The request was refused by the engine."


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
def test_whatever_goes_wrong_on_the_way_is_one_of_the_domains_errors(raised, expected):
    with pytest.raises(expected) as caught, translate_errors("generation"):
        raise raised
    assert type(caught.value) is expected
    assert "generation server" in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("raised", [httpx.ConnectError("x"), httpx.ReadError("x"), httpx.ConnectTimeout("x")])
def test_a_server_out_of_reach_is_worth_a_retry_soon(raised):
    with pytest.raises(BackendUnavailableError) as caught, translate_errors("embedding"):
        raise raised
    assert caught.value.retry_after_s == 1


def test_the_domains_own_errors_pass():
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
def test_a_servers_status_becomes_the_domains_error(status, expected):
    assert type(refused(status)) is expected


def test_a_server_that_refuses_the_key_is_not_the_clients_fault():
    assert "key" in refused(401).message
    assert refused(401).status == 500


def test_a_server_without_the_model_is_told():
    assert "'m'" in refused(404).message


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_is_worth_a_retry(status):
    assert refused(status).retry_after_s == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when_to_come_again_is_busy(status):
    error = refused(status, retry_after_s=7)
    assert (type(error), error.retry_after_s) == (BackendBusyError, 7)


def test_only_a_refusal_for_now_is_one():
    assert type(refused(500, retry_after_s=7)) is BackendFailedError


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("7", 7), (" 0 ", 0), ("", None), ("soon", None), ("-1", None), ("1.5", None), ("\u0667", None)],
)
def test_when_to_come_again_is_in_whole_seconds(written, seconds):
    assert parse_retry_after(httpx.Headers({"retry-after": written.encode()})) == seconds


@pytest.mark.parametrize(("ahead_s", "low", "high"), [(100, 98, 101), (-100, 0, 0)])
def test_or_it_is_a_date(ahead_s, low, high):
    date = email.utils.formatdate(time.time() + ahead_s, usegmt=True)
    assert low <= parse_retry_after(httpx.Headers({"retry-after": date})) <= high


def test_or_it_is_not_said():
    assert parse_retry_after(httpx.Headers()) is None


def test_a_refusal_is_read_as_vllms():
    error = refused(400, "This model's maximum context length is 256 tokens.")
    assert isinstance(error, ContextLengthError)
    assert error.param == "prompt"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "Too long.", "type": "x", "code": 400}}', "Too long."),
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"error": null}', NO_WORDS),
        (b"{}", NO_WORDS),
        (b"", NO_WORDS),
        (b"<html>Bad Gateway</html>", NO_WORDS),
        (b"[1]", NO_WORDS),
        (b'{"error": "\xff"}', NO_WORDS),
    ],
)
def test_a_servers_words_are_found_in_its_body(body, message):
    assert error_message(body) == message


@given(status=st.integers(300, 599), body=st.binary(max_size=40))
@settings(max_examples=20, deadline=None)
def test_any_answer_of_a_server_becomes_an_error_with_a_message(status, body):
    assert refused(status, error_message(body)).message
