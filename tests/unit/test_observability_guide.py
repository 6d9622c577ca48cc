"""The guide documents exactly the existing metrics and log fields."""

import json
import logging
import re
from typing import Any

import pytest

from app.telemetry import instruments
from app.telemetry.instruments import INSTRUMENTS, Instrument, Kind
from app.telemetry.log import JsonFormatter
from app.telemetry.record import RequestRecord
from app.telemetry.request_log import RequestLog, fields
from domain.roles import Role
from domain.service_class import ServiceClass
from tests.deployment import ROOT

GUIDE = (ROOT / "docs" / "observability.md").read_text()
UNITS = {"": "–", "By": "bytes"}
OF_EVERY_LINE = {"time", "level", "logger", "message"}


def row(instrument: Instrument) -> str:
    """The guide's table row of a metric."""
    name = instrument.family + ("_total" if instrument.kind is Kind.COUNTER else "")
    unit = UNITS.get(instrument.unit, instrument.unit.strip("{}"))
    labels = ", ".join(f"`{label}`" for label in instrument.labels) or "–"
    return f"| `{name}` | {instrument.kind} | {unit} | {labels} | {instrument.about} |"


def test_the_table_has_every_metric_and_no_other():
    table = GUIDE.split("<!-- metrics -->\n")[1].split("\n\n")[0]
    expected = [row(instrument) for instrument in INSTRUMENTS]
    assert table.splitlines()[2:] == expected, "\n".join(["expected:", *expected])


def test_every_metric_is_set_somewhere():
    result = "".join((ROOT / "app" / "telemetry" / name).read_text() for name in ("metrics.py", "state.py"))
    names = {name for name, value in vars(instruments).items() if isinstance(value, Instrument)}
    assert set(re.findall(r"instruments\.([A-Z_]+)", result)) == names


@pytest.fixture
def sample() -> dict[str, Any]:
    """The sample log line of the guide, which is wrapped there."""
    found = re.search(r"<!-- log -->\n```json\n(.*?)```", GUIDE, re.DOTALL)
    assert found
    return json.loads(found[1].replace("\n", ""))


def test_the_sample_log_line_is_an_actual_line(sample, caplog):
    record = RequestRecord(
        began=0.0,
        request_id=sample["request_id"],
        trace_id=sample["trace_id"],
        method=sample["method"],
        route=sample["route"],
        key=sample["key"],
        status=sample["status"],
        client_gone=sample["client_gone"],
        operation=sample["operation"],
        role=Role.GENERATE,
        model=sample["model"],
        is_stream=sample["stream"],
        duration_s=sample["duration_ms"] / 1000,
        first_token_s=sample["first_token_ms"] / 1000,
        queue_s=sample["queue_ms"] / 1000,
        prompt_tokens=sample["prompt_tokens"],
        completion_tokens=sample["completion_tokens"],
    )
    caplog.set_level(logging.INFO, "memoria.request")
    RequestLog().request_ended(record)
    written = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert list(sample) == list(written)
    assert sample | {"time": ""} == written | {"time": ""}


def test_every_field_of_the_log_is_explained(sample):
    table = GUIDE.split("| field | what it is |\n")[1].split("\n\n")[0]
    explained = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
    everything = RequestRecord(
        began=0.0,
        request_id="1",
        trace_id="2",
        method="POST",
        key="alice",
        error_type="server_error",
        operation="chat",
        model="m",
        first_token_s=0.0,
        service_class=ServiceClass.BATCH,
    )
    assert explained == OF_EVERY_LINE | set(fields(everything))
    assert set(sample) == explained - {"error_type", "service_class"}
