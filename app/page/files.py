"""Loads the files of the status page, which are next to this module and served unchanged, without a build step."""

import hashlib
from importlib.resources import files

import msgspec

INDEX = "index.html"
MEDIA_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}


class PageFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    body: bytes
    media_type: bytes
    etag: bytes
    """Hash of the content, so that browsers fetch a new version immediately."""


def _read() -> dict[str, PageFile]:
    found = {}
    for path in files(__package__).iterdir():
        media_type = MEDIA_TYPES.get(f".{path.name.rpartition('.')[2]}")
        if media_type is not None:
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'.encode()
            found[path.name] = PageFile(body=body, media_type=media_type, etag=etag)
    return found


FILES = _read()
