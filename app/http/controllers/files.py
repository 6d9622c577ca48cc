"""`/v1/files`: uploads, lists, retrieves and deletes files."""

from typing import cast
from urllib.parse import quote

from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send

from app.files.service import FilesService, require, require_file
from app.http.cors import is_origin_allowed
from app.http.disconnect import unless_disconnected
from app.http.errors import ClientDisconnectedError
from app.http.queries import read_query
from app.http.rate_limits import owner_of
from app.http.requests import FILES, AnyRequest, json_response
from app.http.uploads import received_file
from app.telemetry.request import note_client_left
from domain.errors import OriginNotAllowedError
from domain.files import StoredFile
from domain.openai.files import DeletedFile, FilesQuery, file_object

BLOCK_BYTES = 256 * 2**10
"""Bytes that are read and sent at a time."""


def files_of(request: AnyRequest) -> FilesService | None:
    """The application's files; None if nothing is stored."""
    return cast("FilesService | None", request.app.state[FILES])


async def create_file(request: AnyRequest) -> ASGIApp:
    """Receive a file."""
    if not is_origin_allowed(request.headers.get("origin"), request.headers.get("host"), request.app.cors_config):
        raise OriginNotAllowedError
    files = require(files_of(request))
    async with received_file(request, files) as (body, received):
        return json_response(file_object(await files.create(owner_of(request), body, received)))


async def list_files(request: AnyRequest) -> ASGIApp:
    """List the files of the key."""
    files = require(files_of(request))
    return json_response(await files.list(owner_of(request), read_query(request, FilesQuery)))


async def retrieve_file(request: AnyRequest, file_id: FromPath[str]) -> ASGIApp:
    """Retrieve what is known of a file."""
    files = require_file(files_of(request), file_id)
    return json_response(file_object(await files.get(owner_of(request), file_id)))


async def retrieve_file_content(request: AnyRequest, file_id: FromPath[str]) -> ASGIApp:
    """Retrieve the contents of a file."""
    files = require_file(files_of(request), file_id)
    return ContentAnswer(files, await files.get(owner_of(request), file_id))


async def delete_file(request: AnyRequest, file_id: FromPath[str]) -> ASGIApp:
    """Delete a file."""
    files = require_file(files_of(request), file_id)
    await files.delete(owner_of(request), file_id)
    return json_response(DeletedFile(id=file_id))


class ContentAnswer:
    """The contents of a file as an ASGI application, read while they are sent."""

    def __init__(self, files: FilesService, file: StoredFile) -> None:
        self._files = files
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop when the client disconnects.

        Raises:
            FilesUnavailableError: the contents can't be opened.
        """
        try:
            await unless_disconnected(self._send(send), receive)
        except ClientDisconnectedError:
            note_client_left(scope)

    async def _send(self, send: Send) -> None:
        async with self._files.open(self._file) as contents:
            left = contents.size
            headers = [
                (b"content-type", b"application/octet-stream"),
                (b"content-length", b"%d" % left),
                (
                    b"content-disposition",
                    f"attachment; filename*=UTF-8''{quote(self._file.name, safe='')}".encode(),
                ),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while left:
                block = await self._files.storage.run(contents.read, min(left, BLOCK_BYTES))
                if not block:
                    # Cut from outside. The connection is closed, since the client was told another length.
                    raise OSError(f"the contents of {self._file.id} end early")
                left -= len(block)
                await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
