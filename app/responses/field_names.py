"""Names the fields of the Responses API in errors of engines, which know those of chat completions."""

import contextlib
from collections.abc import Iterator

from domain.errors import InvalidRequestError

_NAMES = {"messages": "input", "max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}


@contextlib.contextmanager
def response_field_names() -> Iterator[None]:
    """Give an error that passes the name that its field has in the Responses API."""
    try:
        yield
    except InvalidRequestError as error:
        if error.param in _NAMES:
            error.param = _NAMES[error.param]
        raise
