"""Explains paths that are not served: endpoints of OpenAI's API, and paths with or without `/v1` by mistake."""

import re
from collections.abc import Sequence
from functools import cache

from app.http.endpoint import Endpoint

_TEXT_ONLY = "The models served here read and write text only."
UNSERVED = {
    "/v1/assistants": "OpenAI's assistants are not served here. Use POST /v1/responses, with 'tools'.",
    "/v1/audio": f"Speech and transcription are not served here. {_TEXT_ONLY}",
    "/v1/decisions": "OpenAI's decisions are not served here. Use POST /v1/responses, with a "
    "'text.format' of type 'json_schema' that has a field for each question.",
    "/v1/evals": "OpenAI's evaluations are not served here.",
    "/v1/fine_tuning": "Models can't be fine-tuned here.",
    "/v1/images": f"Images are not served here. {_TEXT_ONLY}",
    "/v1/moderations": "There is no moderation model here.",
    "/v1/realtime": "OpenAI's realtime API is not served here. Use POST /v1/responses, with 'stream'.",
    "/v1/threads": "OpenAI's threads are not served here. Use POST /v1/conversations and POST /v1/responses.",
    "/v1/uploads": "Uploads in parts are not served here. Use POST /v1/files for a whole file.",
    "/v1/vector_stores": "Vector stores are not served here. POST /v1/embeddings makes vectors for "
    "a database of your own.",
}
"""Beginnings of paths of OpenAI's API that are not served, and what to say of them."""
_ELSE = "Please check the URL for typos, or see GET /v1/models for what is served."


def url_hint(path: str, endpoints: Sequence[Endpoint], method: str = "") -> str:
    """One or two sentences for a path that is not served.

    Args:
        path: the path that the client requested.
        endpoints: the endpoints that are served.
        method: the method that it used; of a path's methods, this one is named if it is served.
    """
    with_v1, without_v1 = f"/v1{path}", path.removeprefix("/v1")
    if row := _served(with_v1, endpoints, method):
        return f"Did you mean {row.method} {with_v1}? Set the client's base URL to one that ends with /v1."
    if without_v1 != path and (row := _served(without_v1, endpoints, method)):
        return f"Did you mean {row.method} {without_v1}?"
    for prefix, sentence in UNSERVED.items():
        for tried in (path, with_v1):
            if f"{tried}/".startswith(f"{prefix}/"):
                return f"{sentence} See GET /v1/models for what is served."
    return _ELSE


def _served(path: str, endpoints: Sequence[Endpoint], method: str) -> Endpoint | None:
    """The endpoint at a path: with this method if there is one, and rather without parameters than with."""
    rows = [row for row in endpoints if _pattern(row.path).fullmatch(path)]
    return min(rows, key=lambda row: (row.method != method, "{" in row.path), default=None)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    """Matches the paths of an endpoint, with or without a slash at the end."""
    return re.compile(re.sub(r"\\\{\w+:(\w+)\\\}", _parameter, re.escape(path)) + "/?")


def _parameter(found: re.Match[str]) -> str:
    return ".+" if found[1] == "path" else "[^/]+"
