import logging
import re

import msgspec
import pytest
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

import domain.errors
from app.http.errors import as_inference_error, error_body
from domain.anthropic.error import ThreadsUnsupportedError
from domain.errors import (
    AuthenticationError,
    BackendBusyError,
    BackendFailedError,
    BackendTimeoutError,
    BackendUnavailableError,
    BackendUnreachableError,
    ContextLengthError,
    DeadlineError,
    EngineDiedError,
    EngineHungError,
    FilesUnavailableError,
    HeadersTooLargeError,
    InferenceError,
    InsufficientStorageError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    ModelNotFoundError,
    OriginNotAllowedError,
    OverloadedError,
    PayloadTooLargeError,
    PreviousResponseError,
    RateLimitError,
    RequestRateError,
    RequestTimeoutError,
    StateUnavailableError,
    StoredObjectNotFoundError,
    TokenRateError,
    TooManyConnectionsError,
    TooManyTokensError,
    UnfinishedBatchesError,
    UnknownUrlError,
    UnsupportedMediaTypeError,
    WrongEndpointError,
)

# Status, type and code as a client sees them; openai-python picks its exception class by the status.
SEEN_BY_CLIENTS = {
    InvalidRequestError: (400, "invalid_request_error", None),
    ContextLengthError: (400, "invalid_request_error", "context_length_exceeded"),
    ThreadsUnsupportedError: (400, "invalid_request_error", "unsupported_parameter"),
    PreviousResponseError: (400, "invalid_request_error", "previous_response_not_found"),
    StoredObjectNotFoundError: (404, "invalid_request_error", None),
    TooManyTokensError: (400, "max_tokens_per_request", "max_tokens_per_request"),
    AuthenticationError: (401, "invalid_request_error", None),
    OriginNotAllowedError: (403, "invalid_request_error", "origin_not_allowed"),
    ModelNotFoundError: (404, "invalid_request_error", "model_not_found"),
    WrongEndpointError: (404, "invalid_request_error", None),
    UnknownUrlError: (404, "invalid_request_error", "unknown_url"),
    MethodNotAllowedError: (405, "invalid_request_error", "method_not_supported"),
    PayloadTooLargeError: (413, "invalid_request_error", "payload_too_large"),
    UnsupportedMediaTypeError: (415, "invalid_request_error", "unsupported_media_type"),
    RequestTimeoutError: (408, "invalid_request_error", "request_timeout"),
    HeadersTooLargeError: (431, "invalid_request_error", "headers_too_large"),
    RateLimitError: (429, "requests", "rate_limit_exceeded"),
    RequestRateError: (429, "requests", "rate_limit_exceeded"),
    TokenRateError: (429, "tokens", "rate_limit_exceeded"),
    UnfinishedBatchesError: (429, "batches", "batch_limit_exceeded"),
    TooManyConnectionsError: (503, "service_unavailable_error", "too_many_connections"),
    BackendUnavailableError: (503, "service_unavailable_error", "model_not_ready"),
    EngineDiedError: (503, "service_unavailable_error", "engine_died"),
    EngineHungError: (503, "service_unavailable_error", "engine_hung"),
    OverloadedError: (429, "overloaded_error", "queue_full"),
    StateUnavailableError: (503, "service_unavailable_error", "state_unavailable"),
    FilesUnavailableError: (503, "service_unavailable_error", "files_unavailable"),
    InsufficientStorageError: (507, "service_unavailable_error", "insufficient_storage"),
    DeadlineError: (504, "server_error", "timeout"),
    BackendUnreachableError: (503, "service_unavailable_error", "model_not_ready"),
    BackendBusyError: (503, "service_unavailable_error", "model_not_ready"),
    BackendTimeoutError: (504, "server_error", "timeout"),
    BackendFailedError: (500, "server_error", None),
    InternalError: (500, "server_error", None),
}


def make(kind: type[InferenceError]) -> InferenceError:
    if kind is ContextLengthError:
        return kind(256, param="prompt")
    if kind in (PreviousResponseError, StoredObjectNotFoundError):
        return kind("resp_1", "It may have expired.")
    if kind in (StateUnavailableError, FilesUnavailableError, OriginNotAllowedError, ThreadsUnsupportedError):
        return kind()
    return kind(300_001, 300_000) if kind is TooManyTokensError else kind("It failed.")


def descendants(kind: type) -> set[type]:
    return {below for child in kind.__subclasses__() for below in ({child} | descendants(child))}


def test_every_error_class_is_in_the_table():
    assert descendants(InferenceError) == set(SEEN_BY_CLIENTS)


@pytest.mark.parametrize("kind", SEEN_BY_CLIENTS)
def test_clients_see_the_status_type_and_code_of_the_table(kind):
    error = make(kind)
    assert (error.status, error.type, error.code) == SEEN_BY_CLIENTS[kind]


@pytest.mark.parametrize("kind", SEEN_BY_CLIENTS)
def test_the_documented_tree_has_each_status(kind):
    found = re.search(rf"─ {kind.__name__}\s+(\d+)", domain.errors.__doc__)
    assert found is not None
    assert int(found[1]) == kind.status


@pytest.mark.parametrize("kind", SEEN_BY_CLIENTS)
def test_the_body_has_the_four_keys_of_openais_schema(kind):
    error = make(kind)
    assert msgspec.json.decode(error_body(error)) == {
        "error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    }


def test_an_explicit_code_overrides_the_default():
    assert ModelNotFoundError("Gone.", code="gone").code == "gone"


def test_a_message_is_also_the_text_of_the_exception():
    assert str(InvalidRequestError("Send less.")) == "Send less."


def test_a_known_context_length_is_in_the_message():
    error = ContextLengthError(256, param="input[3]")
    assert "256 tokens" in error.message
    assert "'input[3]'" in error.message


def test_the_message_has_the_number_of_tokens_and_the_limit():
    error = TooManyTokensError(300_001, 300_000)
    assert error.param == "input"
    assert "300001" in error.message
    assert "300000" in error.message


@pytest.mark.parametrize("param", ["prompt", "messages", "input[1]"])
def test_an_unknown_context_length_is_not_in_the_message(param):
    message = ContextLengthError(None, param=param, prompt_tokens=7, max_tokens=2).message
    assert "None" not in message
    assert param in message


def is_recognized_by_langchain(error: ContextLengthError) -> bool:
    """Whether LangChain raises its OpenAIContextOverflowError (langchain-openai 1.7)."""
    return error.status == 400 and "Input tokens exceed the configured limit" in error.message


def is_recognized_by_litellm(error: ContextLengthError) -> bool:
    """Whether LiteLLM raises its ContextWindowExceededError."""
    known = ("this model's maximum context length is", "input tokens exceed the configured limit")
    return any(sentence in error.message.lower() for sentence in known)


def test_messages_that_are_too_long_have_openais_sentence():
    error = ContextLengthError(256, param="messages", prompt_tokens=300, max_tokens=16)
    assert error.message == (
        "Input tokens exceed the configured limit of 256 tokens. Your messages resulted in 300 tokens. Please "
        "reduce the length of the messages."
    )
    assert is_recognized_by_langchain(error)
    assert is_recognized_by_litellm(error)


@pytest.mark.parametrize("param", ["prompt", "messages"])
def test_a_prompt_of_unknown_length_is_too_long_as_well(param):
    error = ContextLengthError(256, param=param)
    assert f"Your {param} resulted in more than 256 tokens." in error.message
    assert is_recognized_by_langchain(error)


@pytest.mark.parametrize("param", ["prompt", "messages"])
def test_an_answer_without_room_has_the_sum(param):
    error = ContextLengthError(256, param=param, prompt_tokens=200, max_tokens=100)
    assert error.message == (
        f"This model's maximum context length is 256 tokens. However, you requested 300 tokens (200 in the "
        f"{param}, 100 in the completion). Please reduce the length of the {param} or completion."
    )
    assert is_recognized_by_litellm(error)
    # LangChain recognizes the code, which the SDK's exception has in its text.
    assert error.code == "context_length_exceeded"


def test_a_prompt_that_fills_the_context_leaves_no_room_for_one_token():
    message = ContextLengthError(256, param="prompt", prompt_tokens=256).message
    assert "you requested 257 tokens (256 in the prompt, 1 in the completion)" in message


def test_an_answer_longer_than_the_context_needs_no_prompt():
    error = ContextLengthError(256, param="messages", max_tokens=10_000_000)
    assert "you requested 10000000 tokens in the completion" in error.message
    assert is_recognized_by_litellm(error)


@pytest.mark.parametrize("kind", SEEN_BY_CLIENTS)
def test_a_domain_error_passes_through(kind):
    error = make(kind)
    assert as_inference_error(error) is error


def test_an_unknown_route_names_method_and_path():
    error = as_inference_error(NotFoundException(), method="GET", path="/v1/chat")
    assert isinstance(error, UnknownUrlError)
    assert "GET /v1/chat" in error.message


def test_a_wrong_method_names_method_and_path():
    error = as_inference_error(MethodNotAllowedException(), method="PUT", path="/v1/models")
    assert isinstance(error, MethodNotAllowedError)
    assert "PUT on /v1/models" in error.message


def test_the_frameworks_other_client_errors_are_invalid_requests():
    error = as_inference_error(HTTPException(status_code=400, detail="broken body"))
    assert type(error) is InvalidRequestError
    assert "broken body" in error.message


@pytest.mark.parametrize("failure", [KeyError("secret prompt"), HTTPException("secret prompt", status_code=500)])
def test_unexpected_errors_are_logged_and_hidden_from_the_client(failure, caplog):
    with caplog.at_level(logging.ERROR, logger="memoria"):
        error = as_inference_error(failure, method="POST", path="/v1/completions")
    assert isinstance(error, InternalError)
    assert "secret" not in error.message
    (record,) = caplog.records
    assert type(failure).__name__ in record.getMessage()
    assert "secret" not in caplog.text


def test_the_details_of_an_error_are_logged_at_debug_level(caplog):
    failure = KeyError("secret prompt")
    with caplog.at_level(logging.DEBUG, logger="memoria"):
        as_inference_error(failure, method="POST", path="/v1/completions")
    assert caplog.records[1].exc_info[1] is failure


def test_a_path_cannot_inject_a_log_line(caplog):
    with caplog.at_level(logging.ERROR, logger="memoria"):
        as_inference_error(KeyError("x"), method="GET", path="/a\nERROR forged")
    assert "\nERROR forged" not in caplog.text
