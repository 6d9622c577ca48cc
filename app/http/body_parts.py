"""Decodes the parts of a body whose type decides what they may contain: items and tools of the Responses API."""

from typing import Any

from app.http.codec import BodyDecoder
from app.http.ignored import note_ignored
from app.http.requests import AnyRequest, options_of
from app.responses.preparation import Parts
from domain.errors import InvalidRequestError


class BodyParts:
    """Decodes the parts of one body, and collects what it ignores of them."""

    def __init__(self, *, is_strict: bool, allow_unknown: bool = False) -> None:
        """Create it.

        Args:
            is_strict: whether unknown parts are refused.
            allow_unknown: whether unknown fields are dropped even then.
        """
        self._is_strict = is_strict
        self._allow_unknown = allow_unknown
        self.ignored: list[str] = []
        """What was ignored, such as `tools[1] (web_search)`."""

    @property
    def parts(self) -> Parts:
        """The functions that decode and ignore parts."""
        return Parts(self.decode, self.ignore)

    def decode(self, content: bytes, kind: type[Any], path: str) -> Any:
        """Decode a part.

        Raises:
            InvalidRequestError: it is invalid; `param` begins with `path`.
        """
        decoder = _decoder(kind)
        if self._is_strict:
            return decoder.decode(content, allow_unknown=self._allow_unknown, path=path)
        part, dropped = decoder.decode_tolerantly(content, path=path)
        self.ignored += dropped
        return part

    def ignore(self, path: str, name: str) -> None:
        """Ignore a part of an unknown type.

        Raises:
            InvalidRequestError: STRICT_TOOLS is set.
        """
        shown = name[:60]
        if self._is_strict:
            raise InvalidRequestError(
                f"The type '{shown}' of '{path}' is not supported here.",
                param=f"{path}.type",
                code="invalid_value",
            )
        self.ignored.append(f"{path} ({shown})")


_decoders: dict[type[Any], BodyDecoder[Any]] = {}


def _decoder(kind: type[Any]) -> BodyDecoder[Any]:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = BodyDecoder(kind, is_tolerant=True)
    return decoder


def body_parts(request: AnyRequest) -> BodyParts:
    """Decodes the parts of a request's body, as the settings say."""
    options = options_of(request)
    return BodyParts(is_strict=options.strict_tools, allow_unknown=options.allow_unknown_fields)


def report_ignored(request: AnyRequest, parts: BodyParts) -> None:
    """Report in a header what was ignored."""
    if parts.ignored:
        note_ignored(request.scope, parts.ignored)
