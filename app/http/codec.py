"""Decodes request bodies into structs and encodes answers: each once, with msgspec, strictly."""

import difflib
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from app.http.known_fields import names_at, original_path, without_unknown
from domain.errors import InvalidRequestError
from domain.openai.malformed import MALFORMED, malformed_json

T = TypeVar("T", bound=msgspec.Struct)

encode = msgspec.json.Encoder().encode
"""A struct as JSON bytes."""

LONGEST_REPEATED = 300
LONGEST_NAME = 100

# For a key of an object msgspec says "at `key` in `$.metadata`".
_AT = re.compile(r" - at (`key` in )?`\$\.?(.*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(.*)`", re.S)
_MISSING = re.compile(r"^Object missing required field `(.*)`$")


class BodyDecoder(Generic[T]):
    """Decodes request bodies of one type and says what is wrong with those that it refuses."""

    def __init__(self, body_type: type[T], *, is_tolerant: bool = False) -> None:
        """Create the decoder.

        Args:
            body_type: the type of the bodies.
            is_tolerant: whether the API of this body expects unknown parts to be ignored.
        """
        self._type = body_type
        self._decoder = msgspec.json.Decoder(body_type)
        self.is_tolerant = is_tolerant

    def decode(self, body: bytes, *, allow_unknown: bool = False, path: str = "") -> T:
        """The request.

        Args:
            body: the bytes as received.
            allow_unknown: drop fields that the type does not know.
            path: where the value stands in a larger body, such as `input[3]`; empty for a whole body.

        Raises:
            InvalidRequestError: not JSON, not an object, an unknown or missing field, a wrong type or value.
        """

        def without_fields(error: msgspec.ValidationError) -> Any:
            if not (allow_unknown and _UNKNOWN.match(str(error))):
                raise error
            return without_unknown(msgspec.json.decode(body), self._type)

        return self._decode(body, without_fields, path, {})

    def decode_tolerantly(self, body: bytes, *, path: str = "") -> tuple[T, list[str]]:
        """The request, without fields that its type does not know and without members that its lists tolerate.

        Args:
            body: the bytes as received.
            path: where the value stands in a larger body, such as `input[3]`; empty for a whole body.

        Returns:
            The request and what was dropped, such as `messages[0].foo` and `tools[1] (web_search)`.

        Raises:
            InvalidRequestError: not JSON, not an object, a missing field, a wrong type or value.
        """
        dropped: list[str] = []
        kept: dict[str, list[int]] = {}

        def without_ignored(error: msgspec.ValidationError) -> Any:
            value = msgspec.json.decode(body)
            known = without_unknown(value, self._type, dropped, drop_members=True, kept=kept)
            if not dropped:
                raise error
            return known

        part = self._decode(body, without_ignored, path, kept)
        return part, [_joined(path, name) for name in dropped]

    def _decode(
        self,
        body: bytes,
        recover: Callable[[msgspec.ValidationError], Any],
        path: str,
        kept: dict[str, list[int]],
    ) -> T:
        """Decode at once, and on a mistake what `recover` returns; it may raise the mistake again.

        In `kept` it notes positions of list members that change, so that a refusal names those in the body.
        """
        if not body:
            raise InvalidRequestError("The request has no body. Send a JSON object.")
        try:
            try:
                return self._decoder.decode(body)
            except msgspec.ValidationError as error:
                # Slower, and needed only if there is a mistake. Parts that are kept as JSON need the text.
                return self._decoder.decode(encode(recover(error)))
        except msgspec.ValidationError as error:
            raise self._refusal(str(error), body, path, kept) from None
        except MALFORMED as error:
            raise malformed_json(error) from None

    def _refusal(self, text: str, body: bytes, outer: str, kept: dict[str, list[int]]) -> InvalidRequestError:
        """msgspec's message in OpenAI's words."""
        at = _AT.search(text)
        inner = original_path(at[2], kept) if at else ""
        path = _joined(outer, inner)
        reason = text[: at.start()] if at else text
        if unknown := _UNKNOWN.match(reason):
            near = difflib.get_close_matches(unknown[1][:LONGEST_NAME], self._names_at(inner, body), n=1)
            return _unknown(path, unknown[1], near)
        if missing := _MISSING.match(reason):
            param = _joined(path, missing[1])
            return InvalidRequestError(
                f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
            )
        if len(reason) > LONGEST_REPEATED:
            # It may repeat what the client sent.
            reason = f"{reason[:LONGEST_REPEATED]}…"
        reason = f"{reason[:1].lower()}{reason[1:]}."
        if not path:
            return InvalidRequestError(f"The request body must be a JSON object: {reason}")
        what = f"Invalid key in '{path}'" if at and at[1] else f"Invalid '{path}'"
        code = "invalid_type" if ", got" in reason else "invalid_value"
        return InvalidRequestError(f"{what}: {reason}", param=path, code=code)

    def _names_at(self, path: str, body: bytes) -> list[str]:
        """The fields that an object at this path may have, which can depend on the rest of the body."""
        try:
            value = msgspec.json.decode(body) if path else None
        except MALFORMED:
            # The decoder stopped at the unknown field; what follows it is not valid JSON.
            return []
        return names_at(value, self._type, path)


def _unknown(path: str, name: str, near: list[str]) -> InvalidRequestError:
    param = _joined(path, name)[:LONGEST_NAME]
    meant = f" Did you mean '{near[0]}'?" if near else ""
    return InvalidRequestError(f"Unknown parameter: '{param}'.{meant}", param=param, code="unknown_parameter")


def _joined(outer: str, inner: str) -> str:
    """The path of a field inside another one."""
    if not outer or not inner or inner.startswith("["):
        return outer + inner
    return f"{outer}.{inner}"
