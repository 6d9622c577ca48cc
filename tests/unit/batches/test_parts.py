"""What claims write, and what the next claim reads of it."""

import asyncio
import contextlib
import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.files.contents import DiskContents
from app.batches import parts
from app.batches.execution import LineAnswer
from app.batches.parts import Answered, PartWriter, error_name, output_name, recover
from app.batches.records import EXPIRED, Records
from domain.batches import Part, TokenUsage

RECORDS = Records("batch_" + "0" * 32)
USAGE = TokenUsage(input_tokens=2)


def answer(number: int) -> bytes:
    body = b'{"text":"%s","usage":{"prompt_tokens":2,"total_tokens":2}}' % (b"x" * (number % 7))
    return RECORDS.answer(number, f"line-{number}", LineAnswer(200, "req", body))


def error(number: int) -> bytes:
    return RECORDS.error(number, f"line-{number}", EXPIRED)


@pytest.fixture
def contents(tmp_path: Path) -> DiskContents:
    return disk(tmp_path)


def disk(folder: Path) -> DiskContents:
    found = DiskContents(folder)
    found.start("0" * 16)
    return found


def put(contents: DiskContents, name: str, data: bytes) -> None:
    growing = contents.append_to(name)
    growing.append(data)
    growing.close()


def content_of(contents: DiskContents, name: str) -> bytes:
    return b"".join(contents.read(name, piece_bytes=1000))


def part(name: str = "one", output: int = 0, errors: int = 0) -> Part:
    return Part(name=name, output_bytes=output, error_bytes=errors)


def recovered(contents: DiskContents, *earlier: Part) -> tuple[Sequence[Part], Answered]:
    answered = Answered()
    return recover(earlier, contents, answered), answered


async def test_records_are_written_and_read_again(contents):
    writer = PartWriter("one", contents)
    writer.add(answer(1), is_error=False)
    writer.add(error(2), is_error=True)
    assert (writer.part, writer.unwritten_bytes) == (part(), len(answer(1) + error(2)))
    await writer.sync()
    writer.add(answer(3), is_error=False)
    await writer.sync()
    await writer.close()
    assert writer.unwritten_bytes == 0
    assert writer.part == part("one", len(answer(1) + answer(3)), len(error(2)))
    (found,), answered = recovered(contents, writer.part)
    assert found == writer.part
    assert answered.lines == {1, 2, 3}
    assert (answered.completed, answered.failed, answered.usage) == (2, 1, USAGE + USAGE)


async def test_nothing_is_created_without_records(contents):
    writer = PartWriter("one", contents)
    await writer.sync()
    await writer.close()
    assert contents.used_bytes() == 0
    with pytest.raises(FileNotFoundError):
        content_of(contents, output_name(writer.part))
    assert recovered(contents, writer.part)[0] == [writer.part]


def test_what_a_killed_process_wrote_after_its_last_save_counts(contents):
    put(contents, "one.output", answer(1) + answer(2))
    put(contents, "one.errors", error(3))
    (found,), answered = recovered(contents, part("one", len(answer(1))))
    assert found == part("one", len(answer(1) + answer(2)), len(error(3)))
    assert answered.lines == {1, 2, 3}


def test_what_a_process_writes_after_it_lost_its_claim_has_no_effect(contents):
    put(contents, "one.output", answer(1) + answer(2))
    put(contents, "two.output", answer(3))
    # The second claim had found and stored one record of the first.
    found, answered = recovered(contents, part("one", len(answer(1))), part("two", 0))
    assert found == [part("one", len(answer(1))), part("two", len(answer(3)))]
    assert answered.lines == {1, 3}


def test_a_lost_part_is_empty(contents):
    found, answered = recovered(contents, part("one", 500, 500), part("two"))
    assert found == [part("one"), part("two")]
    assert answered.lines == set()


@settings(deadline=None, max_examples=50)
@given(data=st.data(), records=st.lists(st.booleans(), max_size=12), garbage=st.binary(max_size=20))
def test_a_process_may_be_killed_at_any_byte(tmp_path_factory, data, records, garbage):
    contents = disk(tmp_path_factory.mktemp("parts"))
    written = b"".join(answer(number) for number, _ in enumerate(records, 1))
    cut = data.draw(st.integers(0, len(written)))
    put(contents, "one.output", written[:cut] + garbage.replace(b"\n", b""))
    (found,), answered = recovered(contents, part())
    assert written[: found.output_bytes].count(b"\n") == len(answered.lines)
    assert found.output_bytes <= cut
    assert cut - found.output_bytes < len(answer(6))
    assert answered.lines == set(range(1, len(answered.lines) + 1))


class FullDisk(DiskContents):
    """Takes no more bytes than there is room for."""

    room = 0

    def append_to(self, name, *, size=None):
        file, disk = super().append_to(name, size=size), self
        write = file.append

        def append(content):
            taken, disk.room = content[: disk.room], max(0, disk.room - len(content))
            write(taken)
            if taken != content:
                raise OSError(errno.ENOSPC, "No space left on device")

        file.append = append
        return file


@pytest.mark.parametrize("piece_bytes", [1, 300, 2**20])
@settings(deadline=None, max_examples=30)
@given(rooms=st.lists(st.integers(0, 120), min_size=1, max_size=8))
async def test_a_full_disk_loses_nothing_and_writes_nothing_twice(tmp_path_factory, rooms, piece_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PIECE_BYTES", piece_bytes)
        await write_to_a_full_disk(tmp_path_factory, rooms)


async def write_to_a_full_disk(tmp_path_factory, rooms):
    contents = FullDisk(tmp_path_factory.mktemp("full"))
    contents.start("0" * 16)
    writer = PartWriter("one", contents)
    for number, room in enumerate(rooms, 1):
        writer.add(answer(number), is_error=False)
        writer.add(error(100 + number), is_error=True)
        contents.room = room
        with contextlib.suppress(OSError):
            await writer.sync()
    contents.room = 10**9
    await writer.sync()
    await writer.close()
    count = len(rooms)
    assert content_of(contents, "one.output") == b"".join(answer(number) for number in range(1, count + 1))
    assert content_of(contents, "one.errors") == b"".join(error(100 + number) for number in range(1, count + 1))
    assert writer.unwritten_bytes == 0
    assert recovered(contents, writer.part)[1].failed == count


def test_names_of_parts_are_names_of_contents(contents):
    written = part("batch_0123-abcdef")
    for name in (output_name(written), error_name(written)):
        put(contents, name, b"x")
        assert content_of(contents, name) == b"x"


class SlowDisk(DiskContents):
    """Waits before it appends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.begun, self.may_write = threading.Event(), threading.Event()

    def append_to(self, name, *, size=None):
        file = super().append_to(name, size=size)
        write = file.append

        def append(content):
            self.begun.set()
            assert self.may_write.wait(30)
            write(content)

        file.append = append
        return file


@pytest.mark.parametrize("is_durable", [False, True])
async def test_a_write_whose_task_is_cancelled_is_finished_before_the_next_one(tmp_path, is_durable):
    contents = SlowDisk(tmp_path)
    contents.start("0" * 16)
    writer = PartWriter("one", contents)
    writer.add(answer(1), is_error=False)
    left = asyncio.create_task(writer.sync() if is_durable else writer.write())
    await asyncio.to_thread(contents.begun.wait, 30)
    left.cancel()
    await asyncio.wait({left})
    assert left.cancelled()
    writer.add(answer(2), is_error=False)
    again = asyncio.create_task(writer.sync())
    await asyncio.sleep(0)
    contents.may_write.set()
    await again
    await writer.close()
    assert content_of(contents, "one.output") == answer(1) + answer(2)
    assert writer.part == part("one", len(answer(1) + answer(2)))
    assert writer.unwritten_bytes == 0
