"""Reports what of a request was ignored: to its client in a header, and once of each kind in the log."""

import logging
import re

from litestar.types import Scope

from app.http.response_headers import IGNORED

log = logging.getLogger("memoria")

MAX_HEADER = 400
"""Characters of the header's value."""
MAX_NAME = 100
"""Characters of each name in it, which the client chose."""
MAX_KINDS = 100
"""Kinds that are remembered, and logged at most."""
_UNSAFE = re.compile(r"[^ -~]")
_POSITION = re.compile(r"\[\d+\]")
_IGNORED_NAMES = "ignored_names"
_logged: set[str] = set()


def note_ignored(scope: Scope, dropped: list[str]) -> None:
    """Report parts of a body that were ignored.

    Args:
        scope: the scope of the request.
        dropped: such as `messages[0].foo` and `tools[1] (web_search)`; not empty.
    """
    state = scope["state"]
    ignored = state[_IGNORED_NAMES] = [*state.get(_IGNORED_NAMES, ()), *dropped]
    state[IGNORED] = _header(ignored)
    path = scope["path"]
    for name in dropped:
        if len(_logged) >= MAX_KINDS:
            return
        kind = f"{path}: {_POSITION.sub('[]', _printable(name))}"
        if kind not in _logged:
            _logged.add(kind)
            log.warning("ignored in requests to %s (logged once; STRICT_TOOLS=true rejects it)", kind)


def _header(dropped: list[str]) -> bytes:
    value = ""
    for name in dropped:
        longer = f"{value}, {_printable(name)}" if value else _printable(name)
        if len(longer) > MAX_HEADER:
            return f"{value}, ...".encode()
        value = longer
    return value.encode()


def _printable(name: str) -> str:
    """The name in ASCII and without control characters, shortened."""
    return _UNSAFE.sub("?", name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}...")
