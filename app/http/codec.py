"""Decodes request bodies into structs and encodes answers: each once, with msgspec, strictly."""

import difflib
import re
from typing import Generic, TypeVar

import msgspec

from app.http.known_fields import names_at, without_unknown
from domain.errors import InvalidRequestError

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

    def __init__(self, body_type: type[T]) -> None:
        self._type = body_type
        self._decoder = msgspec.json.Decoder(body_type)

    def decode(self, body: bytes, *, allow_unknown: bool = False) -> T:
        """The request.

        Args:
            body: the bytes as received.
            allow_unknown: drop fields that the type does not know.

        Raises:
            InvalidRequestError: not JSON, not an object, an unknown or missing field, a wrong type or value.
        """
        if not body:
            raise InvalidRequestError("The request has no body. Send a JSON object.")
        try:
            try:
                return self._decoder.decode(body)
            except msgspec.ValidationError as error:
                if not (allow_unknown and _UNKNOWN.match(str(error))):
                    raise
                # Slower, and needed only if there is an unknown field.
                known = without_unknown(msgspec.json.decode(body), self._type)
                return msgspec.convert(known, self._type)
        except msgspec.ValidationError as error:
            raise self._refusal(str(error), body) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequestError(f"We could not parse the JSON body of your request: {error}.") from None

    def _refusal(self, text: str, body: bytes) -> InvalidRequestError:
        """msgspec's message in OpenAI's words."""
        at = _AT.search(text)
        path = at[2] if at else ""
        reason = text[: at.start()] if at else text
        if unknown := _UNKNOWN.match(reason):
            return self._unknown(path, unknown[1], body)
        if missing := _MISSING.match(reason):
            param = f"{path}.{missing[1]}" if path else missing[1]
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

    def _unknown(self, path: str, name: str, body: bytes) -> InvalidRequestError:
        param = (f"{path}.{name}" if path else name)[:LONGEST_NAME]
        near = difflib.get_close_matches(name[:LONGEST_NAME], self._names_at(path, body), n=1)
        meant = f" Did you mean '{near[0]}'?" if near else ""
        return InvalidRequestError(f"Unknown parameter: '{param}'.{meant}", param=param, code="unknown_parameter")

    def _names_at(self, path: str, body: bytes) -> list[str]:
        """The fields that an object at this path may have, which can depend on the rest of the body."""
        try:
            value = msgspec.json.decode(body) if path else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # The decoder stopped at the unknown field; what follows it is not valid JSON.
            return []
        return names_at(value, self._type, path)
