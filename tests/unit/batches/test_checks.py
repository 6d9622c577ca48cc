"""What is wrong with the lines of a batch, as its errors say it."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batches.checks import LineChecker, LineRefusedError, LineRules
from app.batches.lines import Line
from app.batches.validation import MAX_ERRORS, Validation
from app.http.controllers import chat, embeddings, responses
from domain.errors import ModelNotFoundError

PATH = "/v1/embeddings"
GOOD: dict[str, Any] = {
    "custom_id": "one",
    "method": "POST",
    "url": PATH,
    "body": {"model": "served", "input": "text"},
}


def require_model(name: str) -> None:
    if name != "served":
        raise ModelNotFoundError(f"The model '{name}' does not exist or is not served here.", param="model")


def rules(path: str = PATH, decoder: Any = embeddings.decoder, **more: Any) -> LineRules:
    return LineRules(
        path=path, decoder=decoder, require_model=require_model, max_line_bytes=more.pop("limit", 1000), **more
    )


def refusal(content: Any, checker: LineChecker | None = None, number: int = 7) -> LineRefusedError:
    text = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    with pytest.raises(LineRefusedError) as raised:
        (checker or LineChecker(rules())).check(Line(number, text))
    assert raised.value.error.line == number
    return raised.value


def changed(**fields: Any) -> dict[str, Any]:
    line = GOOD | fields
    return {name: value for name, value in line.items() if value is not ...}


def body(**fields: Any) -> dict[str, Any]:
    return changed(body={**GOOD["body"], **fields})


def test_a_good_line_is_read():
    request = LineChecker(rules()).check(Line(3, json.dumps(GOOD | {"extra": 1}).encode()))
    assert (request.number, request.custom_id, request.model) == (3, "one", "served")
    assert json.loads(request.body) == GOOD["body"]


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        (b"nonsense", "invalid_json_line", None),
        (b'{"custom_id": "a"', "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (b"17", "invalid_json_line", None),
        (b'{"custom_id": "\xff"}', "invalid_json_line", None),
        ("{}".encode("utf-16"), "invalid_json_line", None),
        (b'{"custom_id": "\\ud800"}', "invalid_json_line", None),
        (b"[" * 900 + b"]" * 50, "invalid_json_line", None),
        (None, "line_too_long", None),
        (changed(custom_id=...), "missing_required_parameter", "custom_id"),
        (changed(custom_id=None), "missing_required_parameter", "custom_id"),
        (changed(custom_id=""), "missing_required_parameter", "custom_id"),
        (changed(custom_id=5), "invalid_value", "custom_id"),
        (changed(custom_id="x" * 513), "invalid_value", "custom_id"),
        (changed(method=...), "missing_required_parameter", "method"),
        (changed(method="GET"), "invalid_method", "method"),
        (changed(method=["POST"]), "invalid_method", "method"),
        (changed(url=...), "missing_required_parameter", "url"),
        (changed(url="/v1/completions"), "invalid_url", "url"),
        (changed(url=5), "invalid_url", "url"),
        (changed(body=...), "missing_required_parameter", "body"),
        (changed(body="text"), "invalid_type", "body"),
        (changed(body=None), "invalid_type", "body"),
        (changed(body={}), "missing_required_parameter", "body.model"),
        (changed(body={"model": "served"}), "missing_required_parameter", "body.input"),
        (body(input={}), "invalid_type", "body.input"),
        (body(inputs="text"), "unknown_parameter", "body.inputs"),
        (body(dimensions=0), "invalid_value", "body.dimensions"),
        (body(model="other"), "model_not_found", "body.model"),
    ],
)
def test_a_bad_line_is_refused_with_a_code_and_a_parameter(content: Any, code: str, param: str | None):
    error = refusal(content).error
    assert (error.code, error.param) == (code, param)
    assert error.message.endswith((".", "?"))


def test_a_custom_id_may_occur_once():
    checker = LineChecker(rules())
    checker.check(Line(1, json.dumps(GOOD).encode()))
    assert refusal(GOOD, checker).error.code == "duplicate_custom_id"
    checker.check(Line(3, json.dumps(changed(custom_id="One")).encode()))


def test_a_line_that_is_refused_keeps_its_custom_id():
    assert refusal(body(model="other")).custom_id == "one"
    assert refusal(changed(url="/x")).custom_id == "one"
    assert refusal(changed(custom_id=5)).custom_id is None


def test_a_stream_is_refused():
    conversation = {"model": "served", "messages": [{"role": "user", "content": "Hi"}]}
    checker = LineChecker(rules("/v1/chat/completions", chat.decoder))
    line = changed(url="/v1/chat/completions", body=conversation | {"stream": True})
    assert refusal(line, checker).error.param == "body.stream"
    allowed = changed(custom_id="two", url="/v1/chat/completions", body=conversation | {"stream": False})
    checker.check(Line(2, json.dumps(allowed).encode()))


def test_a_background_response_is_refused():
    checker = LineChecker(rules("/v1/responses", responses.decoder))
    line = changed(url="/v1/responses", body={"model": "served", "input": "Hi", "background": True})
    assert refusal(line, checker).error.param == "body.background"


def test_bodies_are_as_tolerant_as_their_endpoint():
    unknown = changed(url="/v1/responses", body={"model": "served", "input": "Hi", "unknown": 1})
    line = Line(1, json.dumps(unknown).encode())
    LineChecker(rules("/v1/responses", responses.decoder)).check(line)
    with pytest.raises(LineRefusedError):
        LineChecker(rules("/v1/responses", responses.decoder, is_strict=True)).check(line)
    loose = Line(1, json.dumps(body(unknown=1)).encode())
    LineChecker(rules(allow_unknown=True)).check(loose)


def test_lines_that_were_checked_before_are_not_decoded_again():
    checker = LineChecker(rules(), checks_bodies=False)
    assert checker.check(Line(1, json.dumps(body(model="gone", unknown=1)).encode())).model == "gone"
    assert refusal(changed(custom_id="two", body={"model": 5}), checker).error.code == "invalid_type"


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(max_size=80), st.from_regex(rb'\{"custom_id": ?"a", ?"\w{3,6}": ?.{0,40}\}?', fullmatch=True)
    )
)
def test_any_line_is_read_or_refused(content: bytes):
    with contextlib.suppress(LineRefusedError):
        LineChecker(rules()).check(Line(1, content))


def validation(lines: list[Any], *, max_lines: int = 1000, skips_invalid: bool = False) -> Validation:
    found = Validation(LineChecker(rules()), max_lines=max_lines, skips_invalid=skips_invalid)
    found.add([Line(number, json.dumps(line).encode()) for number, line in enumerate(lines, 1)])
    return found


def good(count: int) -> list[Any]:
    return [changed(custom_id=f"line-{number}") for number in range(count)]


def test_a_valid_file_has_a_number_of_lines_and_a_model():
    found = validation(good(3))
    assert (found.total, found.model, found.errors) == (3, "served", ())


def test_an_empty_file_is_refused():
    (error,) = validation([]).errors
    assert error.code == "empty_file"


def test_a_file_with_too_many_lines_is_refused_for_that_alone():
    lines = good(4)
    assert validation(lines, max_lines=4).errors == ()
    (error,) = validation([{}, *lines], max_lines=4).errors
    assert (error.code, error.line) == ("too_many_lines", 5)
    assert "BATCH_MAX_LINES" in error.message


def test_errors_are_bounded_and_the_others_are_counted():
    errors = validation([{}] * (MAX_ERRORS + 5)).errors
    assert len(errors) == MAX_ERRORS + 1
    assert [error.line for error in errors[:-1]] == [*range(1, MAX_ERRORS + 1)]
    assert (errors[-1].code, errors[-1].line) == ("too_many_errors", None)
    assert errors[-1].message.startswith("5 more")
    assert len(validation([{}] * MAX_ERRORS).errors) == MAX_ERRORS


def test_invalid_lines_can_be_skipped():
    found = validation([{}, *good(2)], skips_invalid=True)
    assert (found.total, found.errors) == (3, ())
    assert validation([], skips_invalid=True).errors, "an empty file fails nevertheless"
