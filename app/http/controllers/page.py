"""`GET /`: the status page and playground, and the files that it is made of."""

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
"""The page loads from and talks to this service alone, runs nothing that is written into it, and stands in no
other page's frame."""
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    # Kept, and asked for anew each time: the answer is then a short "unchanged".
    (b"cache-control", b"no-cache"),
]


class FileAnswer:
    """A file, or word that the browser has it already, as an ASGI application."""

    def __init__(self, file: PageFile) -> None:
        self._file = file

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
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
    """A part of it."""
    found = FILES.get(name)
    if found is None:
        raise NotFoundException
    return FileAnswer(found)


def _has(scope: Scope, etag: bytes) -> bool:
    """Whether the request says that the client has this version (RFC 9110, 13.1.2)."""
    known = [value for name, value in scope["headers"] if name == b"if-none-match"]
    return any(each.strip().removeprefix(b"W/") == etag for value in known for each in value.split(b","))
