"""The requests of `memoria batch` to the service."""

import contextlib
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any

import httpx
import msgspec

from app.commands.model_list import trusted_certificates
from domain.errors import ConfigurationError

TIMEOUT_S = 60.0
"""For the connection, and for each part of an answer."""
PIECE_BYTES = 2**18


class BatchErrorItem(msgspec.Struct):
    """One reason why a batch failed."""

    code: str
    message: str
    line: int | None = None


class BatchErrorList(msgspec.Struct):
    """The reasons."""

    data: list[BatchErrorItem]


class Counts(msgspec.Struct):
    """The lines of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class RemoteBatch(msgspec.Struct):
    """A batch as the service shows it."""

    id: str
    status: str
    request_counts: Counts
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: BatchErrorList | None = None


class _Id(msgspec.Struct):
    id: str


class _Error(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _Error


class UnreachableError(Exception):
    """The service does not answer at the moment."""


class BatchClient:
    """A client of the Files and Batches APIs. A context manager that closes its connections."""

    def __init__(self, url: str, api_key: str | None, *, transport: httpx.BaseTransport | None = None) -> None:
        """Create it.

        Args:
            url: the service's address without `/v1`.
            api_key: sent as a bearer token; None to send none.
            transport: sends the requests, for tests.
        """
        self._url = url
        self._http = httpx.Client(
            base_url=f"{url}/v1/",
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=trusted_certificates(),
            transport=transport,
        )

    def __enter__(self) -> "BatchClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def upload(self, file: Path, on_bytes: Callable[[int], None]) -> str:
        """Upload a file of requests; returns its id.

        Args:
            file: the file.
            on_bytes: called with the number of bytes that were sent, again and again.

        Raises:
            ConfigurationError: the file can't be read, or the service refuses it.
            UnreachableError: the service does not answer.
        """
        with _opened(file) as contents:
            reported: Any = _ReportedFile(contents, on_bytes)
            files = {"file": (file.name, reported, "application/jsonl")}
            answer = self._send("POST", "files", data={"purpose": "batch"}, files=files)
        return msgspec.json.decode(answer.content, type=_Id).id

    def create(self, file_id: str, endpoint: str, window: str) -> RemoteBatch:
        """Create a batch. Raises as `upload`."""
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": window}
        return _batch(self._send("POST", "batches", json=body))

    def retrieve(self, batch_id: str) -> RemoteBatch:
        """A batch. Raises as `upload`."""
        return _batch(self._send("GET", f"batches/{batch_id}"))

    def cancel(self, batch_id: str) -> RemoteBatch:
        """Cancel a batch. Raises as `upload`."""
        return _batch(self._send("POST", f"batches/{batch_id}/cancel"))

    def download(self, file_id: str, target: Path) -> None:
        """Download a file; the target appears when it is complete. Raises as `upload`."""
        partial = target.with_name(f"{target.name}.part")
        try:
            with (
                _no_answer(self._url),
                self._http.stream("GET", f"files/{file_id}/content") as answer,
                partial.open("wb") as contents,
            ):
                if answer.is_error:
                    answer.read()
                    raise _refusal(answer)
                for piece in answer.iter_bytes(PIECE_BYTES):
                    contents.write(piece)
            partial.replace(target)
        except OSError as error:
            raise ConfigurationError(f"{target} can't be written: {error.strerror or error}.") from error
        finally:
            partial.unlink(missing_ok=True)

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        with _no_answer(self._url):
            answer = self._http.request(method, path, **more)
        if answer.is_error:
            raise _refusal(answer)
        return answer


class _ReportedFile:
    """A file that reports how much of it was read."""

    def __init__(self, contents: IO[bytes], on_bytes: Callable[[int], None]) -> None:
        self._contents = contents
        self._on_bytes = on_bytes
        self.fileno = contents.fileno
        self.seek = contents.seek
        self.tell = contents.tell

    def read(self, size: int = -1) -> bytes:
        """Read, and report the position."""
        piece = self._contents.read(size)
        self._on_bytes(self._contents.tell())
        return piece


def first_endpoint(file: Path) -> str | None:
    """The `url` of the first line of a file; None if it has none.

    Raises:
        ConfigurationError: the file can't be read.
    """
    with _opened(file) as contents:
        line = contents.readline(PIECE_BYTES)
    try:
        found = json.loads(line)["url"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


@contextlib.contextmanager
def _opened(file: Path) -> Generator[IO[bytes], None, None]:
    try:
        contents = file.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read: {error.strerror or error}.") from error
    with contents:
        yield contents


@contextlib.contextmanager
def _no_answer(url: str) -> Generator[None, None, None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise UnreachableError(f"{url} does not answer ({error or type(error).__name__}).") from None


def _refusal(answer: httpx.Response) -> Exception:
    """The error for an answer that is one."""
    try:
        message = msgspec.json.decode(answer.content, type=_ErrorBody).error.message
    except msgspec.MsgspecError:
        message = f"The service answered with status {answer.status_code}."
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        message += " Give it with --api-key, or set MEMORIA_API_KEY."
    if answer.status_code in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
        return UnreachableError(message)
    return ConfigurationError(message)


def _batch(answer: httpx.Response) -> RemoteBatch:
    try:
        return msgspec.json.decode(answer.content, type=RemoteBatch)
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"The service does not answer as this one does: {error}.") from None
