"""The log is one stream: JSON for machines, text for people."""

import json
import logging
import sys
import warnings

import pytest

from app.commands.console import Console, LogConsole, console_for
from app.telemetry.log import (
    AUTO,
    ENGINE_LOG,
    FIELDS,
    JSON,
    SERVICE_LOG,
    TEXT,
    StandardError,
    adopt_engine_library,
    chosen_format,
    set_up,
)
from domain.health import BackendHealth, BackendState
from domain.roles import Role

ODD = 'a "quoted" \n line\r\x00\x1b[31m \u2028 ümläut \ud800 end'
TELLTALES = ["opentelemetry.baggage", "opentelemetry.trace", "opentelemetry.util.re"]


@pytest.fixture(autouse=True)
def _loggers_as_in_a_new_process(logging_as_before: None) -> None:
    # vLLM may be loaded in this one, and uvicorn may have served, each with a level of its own.
    for name in ("vllm", "uvicorn.error", *TELLTALES):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)


@pytest.fixture
def log_lines(capsys):
    """The lines that have been logged since the last call."""
    return lambda: capsys.readouterr().err.split("\n")[:-1]


def parsed(lines: list[str]) -> list[dict]:
    return [json.loads(line) for line in lines]


def test_a_json_line_has_time_level_logger_and_message(log_lines):
    set_up("info", JSON)
    logging.getLogger("memoria").warning("%s is %d", "it", 5)
    (line,) = parsed(log_lines())
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "warning", "logger": "memoria", "message": "it is 5"}


def test_a_records_fields_are_in_its_json_line_and_not_in_its_text(log_lines):
    for log_format in (JSON, TEXT):
        set_up("info", log_format)
        logging.getLogger("memoria").info("done", extra={FIELDS: {"count": 3, "role": Role.EMBED, "none": None}})
    line, text = log_lines()
    assert {"count": 3, "role": "embed", "none": None}.items() <= json.loads(line).items()
    assert text.endswith("INFO memoria: done")


@pytest.mark.parametrize("field", [ODD, [ODD], {"a": ODD}, object(), {1, 2}, float("nan"), b"\xff", 2**70])
def test_any_text_is_one_valid_line(log_lines, field):
    set_up("info", JSON)
    logging.getLogger("memoria").error(ODD, extra={FIELDS: {"field": field}})
    (line,) = parsed(log_lines())
    assert line["message"].startswith('a "quoted" \n line\r\x00\x1b[31m')
    assert "field" in line


@pytest.mark.parametrize("field", [object(), {1, 2}, 2**70, Role])
def test_values_that_are_not_json_are_logged_as_text(log_lines, field):
    set_up("info", JSON)
    logging.getLogger("memoria").info("sane", extra={FIELDS: {"field": field}})
    (line,) = parsed(log_lines())
    assert line["message"] == "sane"
    assert line["field"] is not None


def test_an_exception_is_in_its_line(log_lines):
    set_up("info", JSON)
    try:
        {}["why"]
    except KeyError:
        logging.getLogger("memoria").exception("it failed")
    (line,) = parsed(log_lines())
    assert (line["level"], line["message"]) == ("error", "it failed")
    assert line["exception"].startswith("Traceback")
    assert "KeyError: 'why'" in line["exception"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_the_level_is_the_services(log_lines, level, expected):
    set_up(level, JSON)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("memoria.part").log(number, "x")
    assert len(log_lines()) == expected


@pytest.mark.parametrize("name", ["uvicorn.error", "vllm.engine", "asyncio", "some.package", "opentelemetry.sdk"])
@pytest.mark.parametrize("log_format", [JSON, TEXT])
def test_libraries_log_to_the_same_stream_once(log_lines, name, log_format):
    set_up("info", log_format)
    logging.getLogger(name).warning("oh")
    (line,) = log_lines()
    if log_format == JSON:
        assert (json.loads(line)["logger"], json.loads(line)["message"]) == (name, "oh")
    else:
        assert line.endswith(f"WARNING {name}: oh")


def test_warnings_of_libraries_are_in_the_stream(log_lines):
    # As in the service, and not as in tests.
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        set_up("info", JSON)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = parsed(log_lines())
    assert (line["level"], "old" in line["message"]) == ("warning", True)


def test_setting_up_twice_does_not_duplicate_lines(log_lines):
    for _ in range(3):
        set_up("info", JSON)
    logging.getLogger("memoria").info("x")
    logging.getLogger("elsewhere").warning("y")
    assert len(log_lines()) == 2
    assert len([own for own in logging.getLogger().handlers if isinstance(own, StandardError)]) == 1


def test_existing_handlers_are_kept(caplog):
    set_up("info", JSON)
    logging.getLogger("elsewhere").warning("y")
    assert "y" in caplog.text


@pytest.mark.parametrize("name", [f"{name}.below" for name in TELLTALES])
def test_warnings_that_contain_headers_or_secrets_are_suppressed(log_lines, name):
    set_up("debug", JSON)
    logging.getLogger(name).warning("Invalid entry: `%s`", "secret")
    assert log_lines() == []


def test_engine_output_is_logged_under_its_name(log_lines):
    for log_format in (JSON, TEXT):
        set_up("error", log_format)
        logging.getLogger(ENGINE_LOG).info("%s", "it says 5 %d", extra={"engine": "small"})
    line, text = log_lines()
    assert {"engine": "small", "level": "info", "message": "it says 5 %d"}.items() <= json.loads(line).items()
    assert text == "[small] it says 5 %d"


def test_the_engines_library_gets_the_services_handler(log_lines):
    set_up("info", JSON)
    own = logging.StreamHandler(sys.stderr)
    logging.getLogger("vllm").handlers = [own]
    adopt_engine_library()
    logging.getLogger("vllm").error("x")
    (line,) = parsed(log_lines())
    assert line["logger"] == "vllm"
    assert logging.getLogger("vllm").handlers == logging.getLogger(SERVICE_LOG).handlers


def test_the_engines_library_may_come_before_the_log(log_lines):
    logging.getLogger(SERVICE_LOG).handlers = []
    adopt_engine_library()
    logging.getLogger("vllm").error("x")
    assert len(log_lines()) == 1


def test_a_line_that_can_not_be_written_raises_nothing(monkeypatch):
    set_up("info", JSON)

    class Closed:
        def write(self, _text: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(sys, "stderr", Closed())
    logging.getLogger("memoria").error("x")


# Formats


@pytest.mark.parametrize(("is_terminal", "chosen"), [(True, TEXT), (False, JSON)])
def test_auto_is_text_on_a_terminal(monkeypatch, is_terminal, chosen):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    assert chosen_format(AUTO) == chosen
    assert (chosen_format(TEXT), chosen_format(JSON)) == (TEXT, JSON)
    assert type(console_for(AUTO)) is (Console if is_terminal else LogConsole)
    assert type(console_for(TEXT)) is Console
    assert type(console_for(JSON)) is LogConsole


# The console that writes to the log


@pytest.mark.parametrize(
    ("say", "level"), [(LogConsole.say, "info"), (LogConsole.warn, "warning"), (LogConsole.fail, "error")]
)
def test_console_messages_are_log_lines(log_lines, say, level):
    set_up("info", JSON)
    say(LogConsole(), "100 % of %s [bold]it[/]")
    (line,) = parsed(log_lines())
    assert (line["level"], line["message"]) == (level, "100 % of %s [bold]it[/]")


@pytest.mark.parametrize("state", BackendState)
def test_a_change_of_state_is_a_line_with_its_parts(log_lines, state):
    set_up("info", JSON)
    health = BackendHealth(state=state, reason="Because\n%s.", model="the-model", since="now")
    LogConsole().health_changed(Role.GENERATE, health)
    (line,) = parsed(log_lines())
    told = {"role": "generate", "state": str(state), "reason": "Because\n%s.", "model": "the-model"}
    assert told.items() <= line.items()
    assert "generate" in line["message"]
    assert state in line["message"]
    bad = {BackendState.UNAVAILABLE, BackendState.DEAD, BackendState.HUNG, BackendState.FAILED}
    assert line["level"] == ("warning" if state in bad else "info")


def test_a_role_without_reason_and_model_is_a_line_too(log_lines):
    set_up("info", JSON)
    LogConsole().health_changed(
        Role.EMBED, BackendHealth(state=BackendState.READY, reason=None, model=None, since="now")
    )
    (line,) = parsed(log_lines())
    assert (line["message"], line["reason"], line["model"]) == ("embed is ready", None, None)


def test_a_step_is_a_line_when_it_begins(log_lines):
    set_up("info", JSON)
    with LogConsole().progress() as progress:
        for share in (None, 0.0, 0.5, 1.0):
            progress("fetching %s", share)
        progress("unpacking", None)
    assert [line["message"] for line in parsed(log_lines())] == ["fetching %s", "unpacking"]
