"""Logs one line per request, without its content."""

import logging

from app.telemetry.log import FIELDS
from app.telemetry.record import Listener, RequestRecord
from domain.load import class_name

log = logging.getLogger("memoria.request")


class RequestLog(Listener):
    """Logs finished requests: server errors at level error, others at level info.

    Probes are logged at level debug, and so are lines of batches that have not failed: there may be thousands.
    """

    def request_ended(self, record: RequestRecord) -> None:
        """See Listener."""
        level = _level(record)
        if log.isEnabledFor(level):
            # Made here, because logging would look up where it is called from, which no line says.
            line = logging.LogRecord(log.name, level, __file__, 0, text(record), (), None)
            line.__dict__[FIELDS] = fields(record)
            log.handle(line)


def fields(record: RequestRecord) -> dict[str, object]:
    """Fields of the JSON line; those that don't apply are omitted, except flags that are used as filters."""
    found = {
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "key": record.key,
        "method": record.method,
        "route": record.route,
        "operation": record.operation,
        "model": record.model,
        "stream": record.is_stream if record.operation is not None else None,
        "service_class": class_name(record.service_class) if record.service_class else None,
        "status": record.status,
        "error_type": record.error_type,
        "client_gone": record.client_gone,
        "duration_ms": _ms(record.duration_s),
        "first_token_ms": _ms(record.first_token_s),
        "queue_ms": _ms(record.queue_s) if record.operation is not None else None,
        "prompt_tokens": record.prompt_tokens if record.operation is not None else None,
        "completion_tokens": record.completion_tokens if record.operation is not None else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def text(record: RequestRecord) -> str:
    """The message of the line."""
    parts = [f"{record.method} {record.route} {record.status} in {_ms(record.duration_s):g} ms"]
    if record.first_token_s is not None:
        parts.append(f"first token after {_ms(record.first_token_s):g} ms")
    if record.prompt_tokens or record.completion_tokens:
        parts.append(f"{record.prompt_tokens} + {record.completion_tokens} tokens")
    if record.client_gone:
        parts.append("client disconnected")
    elif record.error_type is not None:
        parts.append(record.error_type)
    if record.model is not None:
        parts.append(record.model)
    return ", ".join([*parts, record.request_id])


def _level(record: RequestRecord) -> int:
    if record.is_probe or record.is_routine_line:
        return logging.DEBUG
    is_server_error = record.status >= 500 or (record.error_type is not None and record.status < 400)
    return logging.ERROR if is_server_error and not record.client_gone else logging.INFO


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
