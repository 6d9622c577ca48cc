"""The service's log: one stream, on standard error, as text for people or as one JSON object a line for machines.

Everything that the process says goes through it: the service, the web server, vLLM's part in this process, and
what engine processes print, under their engine's name.
"""

import json
import logging
import sys
from datetime import UTC, datetime

import msgspec

AUTO, TEXT, JSON = "auto", "text", "json"
FIELDS = "fields"
"""Where a log record keeps what a JSON line shall say beside its message."""
ENGINE = "engine"
"""Where a record of an engine's output keeps the engine's name."""
SERVICE_LOG, ENGINE_LOG = "memoria", "memoria.engine"
_OTHERS = ("uvicorn", "vllm")
_TELLTALES = ("opentelemetry.baggage", "opentelemetry.trace", "opentelemetry.util.re")
"""Loggers that repeat a client's headers, or a secret of the settings, where they warn of them."""


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        line: dict[str, object] = {
            # As the service's other moments: ISO 8601, UTC.
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
            # Half a character, as JSON and file names may hold one.
            return json.dumps(line, default=str)


class StandardError(logging.Handler):
    """Writes to what standard error is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class TextFormatter(logging.Formatter):
    """A line for people; what an engine prints comes as it is, behind its name."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        engine = getattr(record, ENGINE, None)
        return super().format(record) if engine is None else f"[{engine}] {record.getMessage()}"


def chosen_format(wanted: str) -> str:
    """TEXT or JSON: AUTO is TEXT where a person looks on."""
    if wanted == AUTO:
        return TEXT if sys.stderr.isatty() else JSON
    return wanted


def set_up(level: str, log_format: str) -> None:
    """Write the log to standard error.

    Args:
        level: of the service's own log; engines have a level of their own.
        log_format: TEXT or JSON.
    """
    # No line says them, and looking them up costs a tenth of what a line does.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = StandardError()
    handler.setFormatter(JsonFormatter() if log_format == JSON else TextFormatter())
    _give(SERVICE_LOG, handler)
    logging.getLogger(SERVICE_LOG).setLevel(level.upper())
    # Which of an engine's lines are printed at all has been decided where they come from.
    logging.getLogger(ENGINE_LOG).setLevel(logging.DEBUG)
    for name in _OTHERS:
        _give(name, handler)
    # Whatever else has something to say, which would go to standard error in a form of its own.
    root = logging.getLogger()
    root.handlers = [own for own in root.handlers if not isinstance(own, StandardError)] + [handler]
    logging.captureWarnings(True)
    for name in _TELLTALES:
        logging.getLogger(name).setLevel(logging.ERROR)


def adopt_engine_library() -> None:
    """Let what vLLM says in this process come through the service's log; it brings a handler of its own."""
    (handler,) = logging.getLogger(SERVICE_LOG).handlers or (StandardError(),)
    _give("vllm", handler)


def _give(name: str, handler: logging.Handler) -> None:
    logger = logging.getLogger(name)
    logger.handlers = [handler]
    logger.propagate = False
