"""Refuses request bodies, and parts of them, that are not JSON."""

import msgspec

from domain.errors import InvalidRequestError

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for malformed JSON. Its ValidationError, for a wrong type, is a DecodeError too."""


def malformed_json(error: Exception) -> InvalidRequestError:
    """The refusal for one of the errors in `MALFORMED`."""
    return InvalidRequestError(f"We could not parse the JSON body of your request: {error}.")
