"""`GET /` and `GET /page/{name}`: the status page with the playground, and its files."""

from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send

from app.page.files import FILES, INDEX, PageFile

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""The page loads from and connects to this service only, runs no inline scripts, and can't be framed."""
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    # Cached, and revalidated each time: the answer is then a short 304.
    (b"cache-control", b"no-cache"),
]


class FileAnswer:
    """A file, or 304 if the browser has this version, as an ASGI application."""

    def __init__(self, file: PageFile) -> None:
        self._file = file

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the file."""
        file = self._file
        headers = [*HEADERS, (b"etag", file.etag)]
        if _has(scope, file.etag):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        headers += [(b"content-type", file.media_type), (b"content-length", b"%d" % len(file.body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": file.body, "more_body": False})


async def index() -> ASGIApp:
    """The page."""
    return FileAnswer(FILES[INDEX])


async def page_file(name: FromPath[str]) -> ASGIApp:
    """A file of the page."""
    found = FILES.get(name)
    if found is None:
        raise NotFoundException
    return FileAnswer(found)


def _has(scope: Scope, etag: bytes) -> bool:
    """Whether the client has this version, by `If-None-Match` (RFC 9110, 13.1.2)."""
    known = [value for name, value in scope["headers"] if name == b"if-none-match"]
    return any(each.strip().removeprefix(b"W/") == etag for value in known for each in value.split(b","))
