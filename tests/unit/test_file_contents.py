"""What the port of contents promises: the results of batches are made of it."""

import asyncio
import errno
import os
import threading
import time
from pathlib import Path

import pytest

from adapters.files import handles
from adapters.files.contents import DiskContents
from app.files.storage import Storage
from domain.errors import ConfigurationError, InsufficientStorageError
from tests.unit.waiting import eventually

DATABASE = "0123456789abcdef"


@pytest.fixture
def contents(tmp_path: Path) -> DiskContents:
    made = DiskContents(tmp_path / "files")
    made.start(DATABASE)
    return made


def grow(contents: DiskContents, name: str, content: bytes, *, size: int | None = None) -> None:
    grown = contents.append_to(name, size=size)
    grown.append(content)
    grown.sync()
    grown.close()


def whole(contents: DiskContents, name: str) -> bytes:
    return b"".join(contents.read(name, piece_bytes=3))


def names(contents: DiskContents) -> set[str]:
    return set(contents.abandoned(age_s=-60))


def test_contents_are_appended_to_across_openings(contents):
    grown = contents.append_to("part.output")
    assert grown.size == 0
    grown.append(b"first\n")
    assert grown.size == 6
    grown.close()
    grow(contents, "part.output", b"second\n")
    assert whole(contents, "part.output") == b"first\nsecond\n"
    assert contents.append_to("part.output").size == 13


def test_what_was_appended_too_much_is_cut_at_opening(contents):
    grow(contents, "part.output", b"counts|does not")
    grow(contents, "part.output", b"!", size=7)
    assert whole(contents, "part.output") == b"counts|!"
    with pytest.raises(OSError, match="fewer than 9 bytes"):
        contents.append_to("part.output", size=9)
    assert whole(contents, "part.output") == b"counts|!"


def test_the_size_says_how_much_was_written_before_a_full_disk(contents, monkeypatch):
    grown = contents.append_to("part.output")
    real, calls = os.write, []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(descriptor)
        if len(calls) == 1:
            return real(descriptor, data[:4])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(handles.os, "write", full)
        with pytest.raises(OSError, match="space"):
            grown.append(b"0123456789")
    assert grown.size == 4
    grown.append(b"456789")
    grown.close()
    assert whole(contents, "part.output") == b"0123456789"


def test_contents_are_joined_of_the_beginnings_of_others(contents):
    grow(contents, "a", b"aaaa")
    grow(contents, "b", b"bbbb")
    assert contents.join("file-1", [("a", 2), ("missing", 0), ("b", 4)]) == 6
    assert whole(contents, "file-1") == b"aabbbb"
    assert contents.join("file-1", [("b", 1)]) == 1
    assert whole(contents, "file-1") == b"b"
    assert contents.join("file-2", []) == 0
    assert whole(contents, "file-2") == b""
    assert names(contents) == {"a", "b", "file-1", "file-2"}


@pytest.mark.parametrize("parts", [[("a", 4), ("missing", 1)], [("a", 5)]])
def test_a_join_that_fails_leaves_what_was_there(contents, parts):
    grow(contents, "a", b"aaaa")
    grow(contents, "file-1", b"old")
    with pytest.raises(OSError):
        contents.join("file-1", parts)
    assert whole(contents, "file-1") == b"old"
    assert names(contents) == {"a", "file-1"}


def test_contents_that_are_missing_are_said_so(contents):
    for call in (contents.open, contents.sync):
        with pytest.raises(FileNotFoundError):
            call("missing")
    with pytest.raises(FileNotFoundError):
        next(contents.read("missing", piece_bytes=1))
    contents.delete("missing")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../x", "/etc/passwd", "a\0b", "x" * 201])
def test_names_stay_in_the_folder(contents, tmp_path, name):
    for call in (contents.open, contents.append_to, contents.sync):
        with pytest.raises(FileNotFoundError):
            call(name)
    with pytest.raises(FileNotFoundError):
        contents.join(name, [])
    contents.delete(name)
    assert [path.name for path in tmp_path.rglob("*")] == ["files", DATABASE]


def test_contents_of_another_database_are_left_alone(contents, tmp_path):
    grow(contents, "file-1", b"1")
    other = DiskContents(tmp_path / "files")
    other.start("f" * 16)
    assert names(other) == set()
    assert other.used_bytes() == 0
    assert names(contents) == {"file-1"}


def test_old_contents_are_found_and_all_are_measured(contents, tmp_path):
    grow(contents, "old", b"1")
    grow(contents, "new", b"22")
    new = contents.new()
    new.write(b"333")
    hour_ago = time.time() - 3600
    os.utime(tmp_path / "files" / DATABASE / "old", (hour_ago, hour_ago))
    assert contents.abandoned(age_s=3599) == ["old"]
    assert contents.used_bytes() == 6
    assert contents.used_bytes(without=[new.name, "old"]) == 2


def test_a_folder_that_can_t_be_used_is_refused(tmp_path):
    (tmp_path / "files").write_text("")
    with pytest.raises(ConfigurationError, match=r"^MEMORIA_DATA_DIR: .* can't be created or written"):
        DiskContents(tmp_path / "files").start(DATABASE)


def test_a_write_in_a_thread_never_meets_a_descriptor_that_was_closed(contents, monkeypatch):
    new = contents.new()
    real, is_writing, go_on = os.write, threading.Event(), threading.Event()

    def slow(descriptor: int, data: bytes) -> int:
        is_writing.set()
        go_on.wait(10)
        return real(descriptor, data)

    monkeypatch.setattr(handles.os, "write", slow)
    writing = threading.Thread(target=new.write, args=[b"x"])
    writing.start()
    is_writing.wait(10)
    discarding = threading.Thread(target=new.discard)
    discarding.start()
    # Without the lock it would end by itself.
    discarding.join(0.2)
    assert discarding.is_alive()
    go_on.set()
    writing.join(10)
    discarding.join(10)
    assert names(contents) == set()
    with pytest.raises(OSError, match="descriptor"):
        new.write(b"x")


async def test_what_is_kept_while_the_disk_is_measured_counts_once(contents):
    storage = Storage(contents, max_total_bytes=10)
    async with storage.receive() as first:
        await first.write(b"12345")
        await asyncio.gather(storage.measure(), first.keep("file-1"), storage.measure())
        async with storage.receive() as second:
            await second.write(b"12345")
            with pytest.raises(InsufficientStorageError):
                await second.write(b"6")
    contents.delete("file-1")
    async with storage.receive() as third:
        await third.write(b"1234567890")
    storage.stop()
    await eventually(lambda: names(contents) == set())
