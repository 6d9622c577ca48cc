"""The port of the store that keeps what is known of files: all but their contents.

An adapter implements `FileStore` on the database that also keeps responses. Files belong to one owner, as
`domain.state` describes.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

FilePurpose = Literal["batch", "batch_output"]
"""What a file is for (OpenAI's schema `OpenAIFile.purpose`): the lines of a batch, or what became of them."""
Order = Literal["asc", "desc"]
"""Oldest first, or newest first."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file, without its contents."""

    id: str
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

    async def files_bytes(self) -> int:
        """The size of all files of all owners, in bytes."""
        ...

    async def expired_files(self) -> Sequence[StoredFile]:
        """Files that have expired, of all owners."""
        ...

    async def known_files(self, ids: Sequence[str]) -> frozenset[str]:
        """Those of the ids that are files of any owner, to find contents that belong to none."""
        ...
