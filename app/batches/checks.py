"""Checks the lines of a batch before they run, as OpenAI does, and reads what is needed to run them."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from app.batches.lines import Line
from app.http.codec import BodyDecoder
from domain.batches import BatchError
from domain.errors import InvalidRequestError
from domain.openai.malformed import MALFORMED

MAX_CUSTOM_ID = 512
"""Characters of a `custom_id`."""
MAX_SHOWN = 100
"""Characters of a client's value that a message repeats."""
UNSET = msgspec.UNSET


class LineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A line that can run."""

    number: int
    custom_id: str
    body: bytes
    """JSON."""
    model: str
    """As the body names it; empty if it names none."""


class LineRefusedError(Exception):
    """A line can't run."""

    def __init__(self, error: BatchError, custom_id: str | None) -> None:
        """Create it.

        Args:
            error: why.
            custom_id: the line's own, if it has a valid one.
        """
        super().__init__(error.message)
        self.error = error
        self.custom_id = custom_id


class LineRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the lines of a batch must be."""

    path: str
    """The endpoint that each of them names."""
    decoder: BodyDecoder[Any]
    """Of the endpoint's bodies."""
    require_model: Callable[[str], object]
    """Raises InvalidRequestError if no model of a name is served; an empty name is that of no model."""
    max_line_bytes: int
    allow_unknown: bool = False
    """Whether unknown fields of a body are ignored, as the endpoint itself ignores them."""
    is_strict: bool = False
    """Whether a tolerant endpoint refuses what it does not know."""


class _Envelope(msgspec.Struct):
    custom_id: object = UNSET
    method: object = UNSET
    url: object = UNSET
    body: msgspec.Raw | msgspec.UnsetType = UNSET


class _Model(msgspec.Struct):
    model: str | None = None


_envelopes = msgspec.json.Decoder(_Envelope)
_models = msgspec.json.Decoder(_Model)


class LineChecker:
    """Checks the lines of one batch, in their order."""

    def __init__(self, rules: LineRules, *, checks_bodies: bool = True) -> None:
        """Create it.

        Args:
            rules: what the lines must be.
            checks_bodies: whether bodies are checked too; False for lines that have been checked before.
        """
        self._rules = rules
        self._checks_bodies = checks_bodies
        # Digests, because an id may be long and there may be many.
        self._seen: set[bytes] = set()

    def check(self, line: Line) -> LineRequest:
        """The request of a line.

        Raises:
            LineRefusedError: the line can't run.
            BackendUnavailableError: the served models are not known yet.
        """
        envelope = self._envelope(line)
        custom_id = self._custom_id(envelope, line.number)
        try:
            self._check_target(envelope)
            body = self._body(envelope)
            if self._checks_bodies:
                self._check_body(body)
            return LineRequest(
                number=line.number, custom_id=custom_id, body=body, model=_models.decode(body).model or ""
            )
        except InvalidRequestError as error:
            raise _refused(line.number, error, custom_id) from None
        except MALFORMED as error:
            # Only if bodies are not checked, and a model is no text.
            unreadable = _invalid("invalid_type", f"Invalid 'body': {error}.", "body")
            raise _refused(line.number, unreadable, custom_id) from None

    def _envelope(self, line: Line) -> _Envelope:
        if line.content is None:
            text = (
                f"The line is longer than {self._rules.max_line_bytes} bytes. Split its input into several lines, "
                "or raise MAX_BODY_BYTES."
            )
            raise _refused(line.number, _invalid("line_too_long", text, None), None)
        try:
            return _envelopes.decode(line.content)
        except MALFORMED as error:
            reason = "it is not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:300]
            text = f"The line is not a JSON object in UTF-8: {reason}. Write each request as one line of JSON."
            raise _refused(line.number, _invalid("invalid_json_line", text, None), None) from None

    def _custom_id(self, envelope: _Envelope, number: int) -> str:
        value = envelope.custom_id
        error: InvalidRequestError | None = None
        if value is UNSET or value is None or value == "":
            error = _missing("custom_id")
        elif not isinstance(value, str) or len(value) > MAX_CUSTOM_ID:
            text = f"Invalid 'custom_id': it must be a string of 1 to {MAX_CUSTOM_ID} characters."
            error = _invalid("invalid_value", text, "custom_id")
        if error is not None:
            raise _refused(number, error, None)
        assert isinstance(value, str)
        digest = hashlib.blake2b(value.encode(), digest_size=16).digest()
        if digest in self._seen:
            text = (
                f"The 'custom_id' '{value[:MAX_SHOWN]}' occurs in an earlier line. Give each line one of its own."
            )
            raise _refused(number, _invalid("duplicate_custom_id", text, "custom_id"), value)
        self._seen.add(digest)
        return value

    def _check_target(self, envelope: _Envelope) -> None:
        if envelope.method is UNSET:
            raise _missing("method")
        if envelope.method != "POST":
            raise _invalid("invalid_method", "Invalid 'method': it must be 'POST'.", "method")
        if envelope.url is UNSET:
            raise _missing("url")
        if envelope.url != self._rules.path:
            given = f"'{envelope.url[:MAX_SHOWN]}'" if isinstance(envelope.url, str) else "no text"
            text = (
                f"Invalid 'url': it is {given}, but this batch is for '{self._rules.path}'. Write that, and "
                "put requests to other endpoints into batches of their own."
            )
            raise _invalid("invalid_url", text, "url")

    def _body(self, envelope: _Envelope) -> bytes:
        if envelope.body is UNSET:
            raise _missing("body")
        assert isinstance(envelope.body, msgspec.Raw)
        body = bytes(envelope.body)
        if not body.startswith(b"{"):
            raise _invalid("invalid_type", "Invalid 'body': it must be a JSON object.", "body")
        return body

    def _check_body(self, content: bytes) -> None:
        rules = self._rules
        if rules.decoder.is_tolerant and not rules.is_strict:
            body, _ = rules.decoder.decode_tolerantly(content, path="body")
        else:
            body = rules.decoder.decode(content, allow_unknown=rules.allow_unknown, path="body")
        if getattr(body, "stream", None):
            text = "'body.stream' can't be true in a batch. Leave it out: the whole answer is written to a file."
            raise _invalid("invalid_value", text, "body.stream")
        if getattr(body, "background", None):
            text = "'body.background' can't be true in a batch. Leave it out: a batch is in the background itself."
            raise _invalid("invalid_value", text, "body.background")
        try:
            rules.require_model(body.model or "")
        except InvalidRequestError as error:
            raise _invalid(error.code or "model_not_found", error.message, "body.model") from None


def _missing(name: str) -> InvalidRequestError:
    return _invalid("missing_required_parameter", f"Missing required parameter: '{name}'.", name)


def _invalid(code: str, message: str, param: str | None) -> InvalidRequestError:
    return InvalidRequestError(message, param=param, code=code)


def _refused(number: int, error: InvalidRequestError, custom_id: str | None) -> LineRefusedError:
    found = BatchError(code=error.code or "invalid_request", message=error.message, param=error.param, line=number)
    return LineRefusedError(found, custom_id)
