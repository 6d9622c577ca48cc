"""Keeps contents as files in a folder, behind the port.

The folder has one subfolder for each database, by the database's id: a service with another database must not take
the contents of this one for leftovers. Both are readable by the service's user alone, as the database is.
"""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from adapters.files.handles import GrowingFile, NewFile, OpenFile, sync_folder, too_short
from domain.errors import ConfigurationError
from domain.files import FileContents

COPIED_BYTES = 2**20
"""Bytes that are copied at a time."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class DiskContents(FileContents):
    """Keeps contents in a folder; see the port."""

    def __init__(self, folder: Path) -> None:
        """Create it, without touching the folder.

        Args:
            folder: holds a subfolder for each database.
        """
        self._root = folder
        self._folder: Path | None = None

    def start(self, database_id: str) -> None:
        """See the port."""
        folder = self._root / database_id
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # `mkdir` gives the mode to the last folder alone.
            self._root.chmod(0o700)
            probe = NewFile(folder / f"probe-{secrets.token_hex(8)}.new")
            probe.discard()
        except OSError as error:
            raise ConfigurationError(
                f"MEMORIA_DATA_DIR: the folder {folder} for the contents of files can't be created or written "
                f"({os.strerror(error.errno) if error.errno else error}). Make it writable, set MEMORIA_DATA_DIR "
                "to another folder, or set STATE=off to keep no files."
            ) from error
        self._folder = folder

    def new(self) -> NewFile:
        """See the port."""
        return NewFile(self._started / f"upload-{secrets.token_hex(16)}.new")

    def open(self, name: str) -> OpenFile:
        """See the port."""
        return OpenFile(self._path(name))

    def read(self, name: str, *, piece_bytes: int) -> Iterator[bytes]:
        """See the port."""
        contents = self.open(name)
        try:
            while piece := contents.read(piece_bytes):
                yield piece
        finally:
            contents.close()

    def append_to(self, name: str, *, size: int | None = None) -> GrowingFile:
        """See the port."""
        return GrowingFile(self._path(name), size=size)

    def join(self, name: str, parts: Sequence[tuple[str, int]]) -> int:
        """See the port."""
        self._path(name)
        joined = NewFile(self._started / f"joined-{secrets.token_hex(16)}.new")
        total = 0
        try:
            for part, size in parts:
                if size:
                    self._copy(part, size, joined)
                    total += size
            joined.keep(name)
        finally:
            joined.discard()
        return total

    def sync(self, name: str) -> None:
        """See the port."""
        descriptor = os.open(self._path(name), os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(self._started)

    def delete(self, name: str) -> None:
        """See the port."""
        with contextlib.suppress(FileNotFoundError):
            self._path(name).unlink()

    def abandoned(self, *, age_s: float) -> Sequence[str]:
        """See the port."""
        before = time.time() - age_s
        return [name for name, found in self._scan() if found.st_mtime <= before]

    def used_bytes(self, *, without: Container[str] = ()) -> int:
        """See the port."""
        return sum(found.st_size for name, found in self._scan() if name not in without)

    @property
    def _started(self) -> Path:
        if self._folder is None:
            raise FileNotFoundError(2, os.strerror(2), str(self._root))
        return self._folder

    def _path(self, name: str) -> Path:
        # Names are made by the service, never by a client; a mistake there must not lead out of the folder.
        if not _NAME.fullmatch(name):
            raise FileNotFoundError(2, os.strerror(2), name)
        return self._started / name

    def _copy(self, part: str, size: int, joined: NewFile) -> None:
        left = size
        for piece in self.read(part, piece_bytes=min(size, COPIED_BYTES)):
            joined.write(piece[:left])
            left -= min(len(piece), left)
            if not left:
                return
        raise too_short(self._path(part), size)

    def _scan(self) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(self._started) as entries:
            for entry in entries:
                # It may be removed meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        yield entry.name, entry.stat(follow_symlinks=False)
