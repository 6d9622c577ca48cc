"""The service's log: one stream on standard error, as text for people or as JSON lines for machines.

All output of the process goes through it: the service, the web server, vLLM's part in this process, and what
engine processes print, under their engine's name.
"""

import json
import logging
import sys
from datetime import UTC, datetime

import msgspec

AUTO, TEXT, JSON = "auto", "text", "json"
FIELDS = "fields"
"""Attribute of a log record that holds the additional fields of a JSON line."""
ENGINE = "engine"
"""Attribute of a log record of engine output that holds the engine's name."""
SERVICE_LOG, ENGINE_LOG = "memoria", "memoria.engine"
_LIBRARY_LOGS = ("uvicorn", "vllm")
_LEAKING_LOGS = ("opentelemetry.baggage", "opentelemetry.trace", "opentelemetry.util.re")
"""Loggers whose warnings contain a client's headers or secret settings."""


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object: time, level, logger, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        line: dict[str, object] = {
            # As all times of the service: ISO 8601, UTC.
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        engine = getattr(record, ENGINE, None)
        if engine is not None:
            line["engine"] = engine
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:
            # A lone surrogate, which JSON and file names may contain.
            return json.dumps(line, default=str)


class StandardError(logging.Handler):
    """Writes to the current `sys.stderr`, which may be replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """Formats a record as a line for people; engine output is kept as it is, prefixed with the engine's name."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        engine = getattr(record, ENGINE, None)
        return super().format(record) if engine is None else f"[{engine}] {record.getMessage()}"


def chosen_format(setting: str) -> str:
    """TEXT or JSON; AUTO is TEXT on a terminal and JSON elsewhere."""
    if setting == AUTO:
        return TEXT if sys.stderr.isatty() else JSON
    return setting


def set_up(level: str, log_format: str) -> None:
    """Write the log to standard error.

    Args:
        level: level of the service's own log; engines have their own.
        log_format: TEXT or JSON.
    """
    # No line says them, and looking them up costs a tenth of what a line does.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = StandardError()
    handler.setFormatter(JsonFormatter() if log_format == JSON else TextFormatter())
    _attach(SERVICE_LOG, handler)
    logging.getLogger(SERVICE_LOG).setLevel(level.upper())
    # Engine output has already been filtered at its source.
    logging.getLogger(ENGINE_LOG).setLevel(logging.DEBUG)
    for name in _LIBRARY_LOGS:
        _attach(name, handler)
    # All other loggers, which would otherwise use another format.
    root = logging.getLogger()
    root.handlers = [own for own in root.handlers if not isinstance(own, StandardError)] + [handler]
    logging.captureWarnings(True)
    for name in _LEAKING_LOGS:
        logging.getLogger(name).setLevel(logging.ERROR)


def adopt_engine_library() -> None:
    """Route vLLM's log in this process to the service's log, replacing vLLM's own handler."""
    (handler,) = logging.getLogger(SERVICE_LOG).handlers or (StandardError(),)
    _attach("vllm", handler)


def _attach(name: str, handler: logging.Handler) -> None:
    logger = logging.getLogger(name)
    logger.handlers = [handler]
    logger.propagate = False
