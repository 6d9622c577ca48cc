"""Receives forms with one file (`multipart/form-data`, RFC 7578), whose contents are written while they arrive.

The parser is Marcel Hellkamp's `multipart`, which Litestar uses for forms: it takes chunks and returns events,
holds less than a boundary of them, and bounds headers and parts. Litestar's own reader of forms keeps whole parts.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from app.files.service import FilesService
from app.files.storage import Reception
from app.http.codec import BodyDecoder, encode
from app.http.errors import ClientDisconnectedError
from app.http.requests import AnyRequest, content_headers, options_of
from domain.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedMediaTypeError
from domain.openai.files import FileBody

FORM = "multipart/form-data"
FILE = "file"
MAX_PARTS = 16
MAX_VALUE_BYTES = 4096
"""Of each part but the file."""
FORM_BYTES = 128 * 2**10
"""Room for everything but the contents of the file."""
WRITE_BYTES = 256 * 2**10
"""Bytes that are gathered for one write."""
MAX_BOUNDARY = 200
"""Characters; RFC 2046 allows 70."""

_decoder = BodyDecoder(FileBody)


@asynccontextmanager
async def received_file(request: AnyRequest, files: FilesService) -> AsyncIterator[tuple[FileBody, Reception]]:
    """The form and what was received of its file, which is removed at the end unless it was kept.

    Raises:
        UnsupportedMediaTypeError: the body is no form, or is compressed.
        PayloadTooLargeError: the file is larger than FILES_MAX_SIZE.
        InvalidRequestError: the form is broken, or its fields are not those of `FileBody`.
        InsufficientStorageError: there is no space for the file.
        ClientDisconnectedError: the client disconnected before the form was complete.
    """
    boundary = _boundary(request, files.max_bytes)
    async with AsyncExitStack() as stack:
        form = _Form(files, stack)
        try:
            parser = PushMultipartParser(boundary, max_segment_count=MAX_PARTS)
            async for chunk in _chunks(request, files.max_bytes + FORM_BYTES):
                for event in parser.parse(chunk):
                    await form.take(event)
            # Raises if the last boundary is missing.
            parser.close()
        except MultipartError as error:
            # Further arguments are Python's own errors.
            raise _broken(error.args[0]) from None
        yield form.body(allow_unknown=options_of(request).allow_unknown_fields), await form.file()


class _Form:
    """What has arrived of a form."""

    def __init__(self, files: FilesService, stack: AsyncExitStack) -> None:
        self._files = files
        self._stack = stack
        self._values: dict[str, Any] = {}
        self._name = ""
        self._value = bytearray()
        self._reception: Reception | None = None
        self._is_file = False
        self._file_bytes = 0

    async def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        """Take an event of the parser: the beginning of a part, some of its contents, or its end (None)."""
        if event is None:
            await self._end()
        elif isinstance(event, MultipartSegment):
            await self._begin(event)
        elif self._is_file:
            self._file_bytes += len(event)
            if self._file_bytes > self._files.max_bytes:
                raise too_large(self._files.max_bytes)
            self._value += event
            if len(self._value) >= WRITE_BYTES:
                await self._write()
        else:
            self._value += event
            if len(self._value) > MAX_VALUE_BYTES:
                raise InvalidRequestError(
                    f"Invalid '{self._name}': it is longer than {MAX_VALUE_BYTES} bytes.",
                    param=self._name,
                    code="invalid_value",
                )

    def body(self, *, allow_unknown: bool) -> FileBody:
        """The fields."""
        body = _decoder.decode(encode(self._values), allow_unknown=allow_unknown)
        body.check()
        return body

    async def file(self) -> Reception:
        """What was received of the file."""
        assert self._reception is not None
        if not self._reception.size:
            raise InvalidRequestError("Invalid 'file': it is empty.", param=FILE, code="invalid_value")
        return self._reception

    async def _begin(self, part: MultipartSegment) -> None:
        if part.disposition != "form-data" or not part.name:
            raise _broken("a part has no Content-Disposition: form-data with a name")
        self._name, self._is_file = part.name[:100], part.name == FILE
        if self._name in self._values:
            raise InvalidRequestError(
                f"The form has '{self._name}' more than once.", param=self._name, code="invalid_value"
            )
        if not self._is_file:
            return
        if part.filename is None:
            raise InvalidRequestError(
                "Invalid 'file': it must be an uploaded file, with a name, and not a text field.",
                param=FILE,
                code="invalid_type",
            )
        self._values[FILE] = part.filename
        self._reception = await self._stack.enter_async_context(self._files.storage.receive())

    async def _end(self) -> None:
        if self._is_file:
            await self._write()
            return
        try:
            text = self._value.decode()
        except UnicodeDecodeError:
            raise InvalidRequestError(
                f"Invalid '{self._name}': it is not UTF-8.", param=self._name, code="invalid_value"
            ) from None
        is_number = self._name == "expires_after[seconds]" and text.isascii() and text.isdigit()
        self._values[self._name] = int(text[:18]) if is_number else text
        self._value.clear()

    async def _write(self) -> None:
        assert self._reception is not None
        if self._value:
            await self._reception.write(bytes(self._value))
            self._value.clear()


def too_large(max_bytes: int) -> PayloadTooLargeError:
    """The error for a file that is too large."""
    return PayloadTooLargeError(
        f"The file is larger than {max_bytes} bytes (FILES_MAX_SIZE). Split it into several files.", param=FILE
    )


def _boundary(request: AnyRequest, max_bytes: int) -> str:
    """Check the headers of a form; returns its boundary."""
    declared, length = content_headers(request, "")
    kind, options = parse_options_header(declared)
    if kind != FORM:
        raise UnsupportedMediaTypeError(
            f"Unsupported content type: '{declared[:100]}'. This endpoint accepts '{FORM}' with the file."
        )
    boundary: str = options.get("boundary", "")
    if not boundary or len(boundary) > MAX_BOUNDARY or not boundary.isascii():
        raise InvalidRequestError(
            f"The content type '{FORM}' needs a 'boundary' of at most {MAX_BOUNDARY} ASCII characters. Most HTTP "
            "libraries set it if the application does not set the content type itself."
        )
    if length > max_bytes + FORM_BYTES:
        raise too_large(max_bytes)
    return boundary


async def _chunks(request: AnyRequest, max_bytes: int) -> AsyncIterator[bytes]:
    """The body as it arrives."""
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        chunk = cast(bytes, message.get("body", b""))
        size += len(chunk)
        if size > max_bytes:
            raise too_large(max_bytes - FORM_BYTES)
        if chunk:
            yield chunk
        if not message.get("more_body"):
            return


def _broken(why: object) -> InvalidRequestError:
    return InvalidRequestError(f"The form ({FORM}) is broken: {str(why)[:200]}.", code="invalid_form")
