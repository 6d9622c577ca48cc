"""Explains paths that are not served: endpoints of OpenAI's API, and paths with or without `/v1` by mistake."""

from collections.abc import Sequence

from app.http.endpoint import Endpoint

_TEXT_ONLY = "The models served here read and write text only."
_NOT_STORED = "Nothing is stored here."
UNSERVED = {
    "/v1/assistants": "OpenAI's assistants are not served here. Use POST /v1/chat/completions, with 'tools'.",
    "/v1/audio": f"Speech and transcription are not served here. {_TEXT_ONLY}",
    "/v1/batches": "OpenAI's batches are not served here. Send the requests one by one, several at a time.",
    "/v1/decisions": "OpenAI's decisions are not served here. Use POST /v1/chat/completions, with a "
    "'response_format' of type 'json_schema' that has a field for each question.",
    "/v1/evals": "OpenAI's evaluations are not served here.",
    "/v1/files": f"Files can't be uploaded here. {_NOT_STORED}",
    "/v1/fine_tuning": "Models can't be fine-tuned here.",
    "/v1/images": f"Images are not served here. {_TEXT_ONLY}",
    "/v1/moderations": "There is no moderation model here.",
    "/v1/realtime": "OpenAI's realtime API is not served here. Use POST /v1/chat/completions, with 'stream'.",
    "/v1/threads": f"OpenAI's threads are not served here. {_NOT_STORED} Send all messages to POST "
    "/v1/chat/completions.",
    "/v1/uploads": f"Files can't be uploaded here. {_NOT_STORED}",
    "/v1/vector_stores": f"Vector stores are not served here. {_NOT_STORED} POST /v1/embeddings makes vectors for "
    "a database of your own.",
}
"""Beginnings of paths of OpenAI's API that are not served, and what to say of them."""
_ELSE = "Please check the URL for typos, or see GET /v1/models for what is served."


def url_hint(path: str, endpoints: Sequence[Endpoint]) -> str:
    """One or two sentences for a path that is not served.

    Args:
        path: the path that the client requested.
        endpoints: the endpoints that are served.
    """
    for row in endpoints:
        if _matches(row, f"/v1{path}"):
            return f"Did you mean {row.method} /v1{path}? Set the client's base URL to one that ends with /v1."
        if path.startswith("/v1/") and _matches(row, path.removeprefix("/v1")):
            return f"Did you mean {row.method} {path.removeprefix('/v1')}?"
    for prefix, sentence in UNSERVED.items():
        for tried in (path, f"/v1{path}"):
            if f"{tried}/".startswith(f"{prefix}/"):
                return f"{sentence} See GET /v1/models for what is served."
    return _ELSE


def _matches(row: Endpoint, path: str) -> bool:
    fixed, parameter, _ = row.template.partition("{")
    if parameter:
        return path.startswith(fixed) and len(path) > len(fixed)
    return path.rstrip("/") == fixed
