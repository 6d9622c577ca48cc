"""Open files of the folder of contents.

A task that is cancelled leaves the thread behind that works for it. So every use of a descriptor is under a lock:
one that was closed too early could by then belong to another file.
"""

import contextlib
import errno
import os
import threading
from pathlib import Path

from domain.files import GrowingContents, NewContents, OpenContents

MODE = 0o600


class _Handle:
    """A descriptor that is closed once."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._descriptor: int | None = os.open(path, flags | os.O_CLOEXEC, MODE)

    def close(self) -> None:
        """Close the file. Safe to call at any time, in any thread, and repeatedly."""
        with self._lock:
            if self._descriptor is not None:
                descriptor, self._descriptor = self._descriptor, None
                os.close(descriptor)

    @property
    def _open(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self._path))
        return self._descriptor


class NewFile(_Handle, NewContents):
    """A file with a temporary name; see the port."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    @property
    def name(self) -> str:
        """See the port."""
        return self._path.name

    def write(self, data: bytes) -> None:
        """See the port."""
        with self._lock:
            rest = memoryview(data)
            while rest:
                # A disk that is nearly full may take only some of the bytes.
                rest = rest[os.write(self._open, rest) :]

    def keep(self, name: str) -> None:
        """See the port."""
        with self._lock:
            os.fsync(self._open)
            os.rename(self._path, self._path.with_name(name))
            self.close()
            sync_folder(self._path.parent)

    def discard(self) -> None:
        """See the port."""
        with self._lock:
            if self._descriptor is not None:
                with contextlib.suppress(FileNotFoundError):
                    self._path.unlink()
                self.close()


class OpenFile(_Handle, OpenContents):
    """A file that is read; see the port."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_RDONLY)
        self._size = os.fstat(self._open).st_size

    @property
    def size(self) -> int:
        """See the port."""
        return self._size

    def read(self, size: int) -> bytes:
        """See the port."""
        with self._lock:
            return os.read(self._open, size)


class GrowingFile(_Handle, GrowingContents):
    """A file that is appended to; see the port."""

    def __init__(self, path: Path, *, size: int | None) -> None:
        is_new = not path.exists()
        super().__init__(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            self._size = os.fstat(self._open).st_size
            if size is not None:
                self._cut(size)
            if is_new:
                # What is synced later is lost without its name.
                sync_folder(path.parent)
        except OSError:
            self.close()
            raise

    @property
    def size(self) -> int:
        """See the port."""
        return self._size

    def append(self, content: bytes) -> None:
        """See the port."""
        with self._lock:
            rest = memoryview(content)
            while rest:
                written = os.write(self._open, rest)
                self._size += written
                rest = rest[written:]

    def sync(self) -> None:
        """See the port."""
        with self._lock:
            os.fsync(self._open)

    def _cut(self, size: int) -> None:
        if size > self._size:
            raise too_short(self._path, size)
        os.ftruncate(self._open, size)
        self._size = size


def sync_folder(folder: Path) -> None:
    """Return once the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def too_short(path: Path, size: int) -> OSError:
    """The error for a file that was cut from outside."""
    return OSError(errno.EIO, f"the file has fewer than {size} bytes", str(path))
