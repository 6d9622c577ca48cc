"""The ports of files: the store that keeps what is known of them, and the folder that keeps their contents.

An adapter implements `FileStore` on the database that also keeps responses, another one `FileContents` on a disk.
Files belong to one owner, as `domain.state` describes; contents are known by name alone, so a file has to be
looked up in the store first.
"""

from collections.abc import Container, Iterator, Sequence
from typing import Literal, Protocol

import msgspec

FilePurpose = Literal["batch", "batch_output"]
"""What a file is for (OpenAI's schema `OpenAIFile.purpose`): the lines of a batch, or what became of them."""
Order = Literal["asc", "desc"]
"""Oldest first, or newest first."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file, without its contents."""

    id: str
    """Also the name of its contents."""
    owner: str
    created: int
    """Unix time in seconds."""
    size_bytes: int
    name: str
    """As the client called it."""
    purpose: FilePurpose
    expires: int | None = None
    """Unix time in seconds at which it is removed; None to keep it until it is deleted."""


class FileStore(Protocol):
    """Stores files, without their contents.

    Errors: every method raises only `StateUnavailableError` (and `asyncio.CancelledError`).

    Durability: what an awaited method has written survives the end of the process at any moment.
    """

    async def database_id(self) -> str:
        """Identifies the database: 16 hexadecimal digits, the same as long as it exists."""
        ...

    async def create_file(self, file: StoredFile) -> None:
        """Store a file, whose contents are complete."""
        ...

    async def file(self, owner: str, file_id: str) -> StoredFile | None:
        """A file, or None if this owner has none of that id, or it has expired."""
        ...

    async def files(
        self, owner: str, *, purpose: str | None, after: str | None, limit: int, order: Order
    ) -> Sequence[StoredFile] | None:
        """Files of an owner, at most `limit` and one more if there are more.

        None if `after` is no file of this owner.

        Args:
            owner: the owner.
            purpose: only files for this purpose; None for all.
            after: the id of the file before the first one; None to begin at the beginning.
            limit: the size of a page.
            order: by time of creation.
        """
        ...

    async def delete_file(self, owner: str, file_id: str) -> bool:
        """Delete a file; False if this owner has none of that id."""
        ...

    async def expired_files(self) -> Sequence[StoredFile]:
        """Files that have expired, of all owners."""
        ...

    async def known_files(self, ids: Sequence[str]) -> frozenset[str]:
        """Those of the ids that are files of any owner, to find contents that belong to none."""
        ...


class NewContents(Protocol):
    """Contents that are being received, under a temporary name. All functions block, and raise OSError."""

    @property
    def name(self) -> str:
        """The temporary name."""
        ...

    def write(self, data: bytes) -> None:
        """Append bytes."""
        ...

    def keep(self, name: str) -> None:
        """Give the contents their name; returns once that survives a loss of power."""
        ...

    def discard(self) -> None:
        """Remove what was written, unless it was kept. Safe to call at any time, in any thread, and repeatedly."""
        ...


class OpenContents(Protocol):
    """Contents that are open for reading, also while they are removed. All functions block, and raise OSError."""

    @property
    def size(self) -> int:
        """Their size in bytes when they were opened."""
        ...

    def read(self, size: int) -> bytes:
        """The next bytes; fewer than `size` only at the end."""
        ...

    def close(self) -> None:
        """Close them. Safe to call at any time, in any thread, and repeatedly."""
        ...


class GrowingContents(Protocol):
    """Contents that are appended to. All functions block, and raise OSError."""

    @property
    def size(self) -> int:
        """Their size in bytes."""
        ...

    def append(self, content: bytes) -> None:
        """Append bytes; after an error, `size` says how much of them was written."""
        ...

    def sync(self) -> None:
        """Return once everything survives a loss of power."""
        ...

    def close(self) -> None:
        """Close them."""
        ...


class FileContents(Protocol):
    """Keeps contents by their names, which are letters, digits, `-`, `_` and `.`, and don't begin with `.`.

    All functions block, and raise OSError; those of several threads and processes don't disturb each other. What
    has the name of a file is whole, even if the process or the machine stops at any moment. What is not kept then
    stays under a temporary name, until it is found by `abandoned`.
    """

    def start(self, database_id: str) -> None:
        """Create the folder of this database's contents, if there is none.

        Raises:
            ConfigurationError: it can't be created or written; the message names the setting.
        """
        ...

    def new(self) -> NewContents:
        """Begin contents whose size is not known yet."""
        ...

    def open(self, name: str) -> OpenContents:
        """Open contents for reading. Raises FileNotFoundError if there are none."""
        ...

    def read(self, name: str, *, piece_bytes: int) -> Iterator[bytes]:
        """All contents in pieces. Raises FileNotFoundError at the first one if there are none."""
        ...

    def append_to(self, name: str, *, size: int | None = None) -> GrowingContents:
        """Open contents for appending; they are created if there are none.

        Args:
            name: of the contents.
            size: cuts them to so many bytes; None leaves them as they are.
        """
        ...

    def join(self, name: str, parts: Sequence[tuple[str, int]]) -> int:
        """Make contents of the beginnings of others; returns their size once they survive a loss of power.

        Args:
            name: of the new contents, which replace others of that name.
            parts: names of the others, and how many bytes of each; those of 0 bytes need not exist.
        """
        ...

    def sync(self, name: str) -> None:
        """Return once contents survive a loss of power, no matter which process has written them."""
        ...

    def delete(self, name: str) -> None:
        """Delete contents, if there are any of that name."""
        ...

    def abandoned(self, *, age_s: float) -> Sequence[str]:
        """Names of contents that were last written to at least some seconds ago, temporary names included."""
        ...

    def used_bytes(self, *, without: Container[str] = ()) -> int:
        """The size of all contents of this database but some names, temporary ones included."""
        ...
