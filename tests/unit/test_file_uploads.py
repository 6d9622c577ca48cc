"""Uploads that are refused, or that end early: each gets a clear error, and leaves nothing."""

import asyncio
import errno
import os
import random
from pathlib import Path

import httpx2
import pytest

from adapters.files import handles
from tests.unit.files_serving import BOUNDARY, FILES, LINES, MIB, TYPE, FilesApi, files_serving, form, part, whole
from tests.unit.serving import error_of, listening
from tests.unit.waiting import eventually

LIMITS = {"FILES_MAX_SIZE": "1MiB", "FILES_MAX_TOTAL_SIZE": "3MiB"}


@pytest.fixture
async def api(tmp_path: Path):
    async with files_serving(tmp_path, LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory):
    """For uploads that are refused, which leave nothing."""
    async with files_serving(tmp_path_factory.mktemp("files"), LIMITS) as running:
        yield running


PURPOSE, FILE = part("purpose", "batch"), part("file", LINES, file_name="a.jsonl")
EXPIRES = "expires_after[seconds]"
BAD = {
    "no file": (whole(PURPOSE), "file", "Missing required parameter: 'file'"),
    "no purpose": (whole(FILE), "purpose", "Missing required parameter: 'purpose'"),
    "another purpose": (form(purpose="fine-tune"), "purpose", "The only supported purpose is 'batch'"),
    "its own purpose": (form(purpose="batch_output"), "purpose", "The only supported purpose is 'batch'"),
    "two files": (whole(PURPOSE, FILE, FILE), "file", "more than once"),
    "two purposes": (whole(PURPOSE, PURPOSE, FILE), "purpose", "more than once"),
    "a file that is text": (whole(PURPOSE, part("file", LINES)), "file", "not a text field"),
    "an empty file": (form(b""), "file", "it is empty"),
    "a field that is unknown": (form(porpose="x"), "porpose", "'porpose'. Did you mean 'purpose'"),
    "a field that is too long": (form(purpose="x" * 5000), "purpose", "longer than 4096 bytes"),
    "a field that is no UTF-8": (whole(part("purpose", b"\xff"), FILE), "purpose", "not UTF-8"),
    "too many fields": (form(**{f"f{n}": "x" for n in range(20)}), None, "Maximum segment count"),
    "an anchor alone": (form(**{"expires_after[anchor]": "created_at"}), EXPIRES, "needs both"),
    "seconds alone": (form(**{EXPIRES: "3600"}), "expires_after[anchor]", "needs both"),
    "another anchor": (
        form(**{"expires_after[anchor]": "last_used", EXPIRES: "3600"}), "expires_after[anchor]", "invalid enum",
    ),
    "too few seconds": (form(**{"expires_after[anchor]": "created_at", EXPIRES: "3599"}), EXPIRES, ">= 3600"),
    "too many seconds": (form(**{"expires_after[anchor]": "created_at", EXPIRES: "9" * 50}), EXPIRES, "<= 25920"),
    "seconds that are none": (
        form(**{"expires_after[anchor]": "created_at", EXPIRES: "1h"}), EXPIRES, "expected `int",
    ),
    "no name": (form(name=""), "file", "it is empty"),
    "a name with a path": (form(name="../../a.jsonl"), "file", "path separator"),
    "a name with another path": (form(name="a\\\\b"), "file", "path separator"),
    "a name with a line end": (form(name="a%0Ab"), "file", "control characters"),
    "a name with NUL": (form(name="a\0b"), "file", "control characters"),
    "a long name": (form(name="a" * 300), "file", "300 characters"),
    "a very long name": (form(name="a" * 10_000), None, "header length exceeded"),
    "a name that is no UTF-8": (form().replace(b"a.jsonl", b"\xff"), None, "failed to decode."),
    "a part without a name": (form().replace(b'name="purpose"', b"x=y"), None, "Content-Disposition"),
    "a part that is no field": (form().replace(b"form-data", b"inline"), None, "form-data"),
    "a part without headers": (form().replace(b"Content-Disposition", b"X-Other"), None, "Content-Disposition"),
    "a header without a colon": (form().replace(b"Content-Disposition:", b"Oops"), None, "header"),
    "another boundary": (form().replace(BOUNDARY.encode(), b"other"), None, "Unexpected end"),
    "no last boundary": (form()[: -len(BOUNDARY) - 8], None, "Unexpected end"),
    "a cut file": (form()[:-30], None, "Unexpected end"),
    "no body": (b"", None, "Unexpected end"),
    "JSON": (b'{"purpose": "batch"}', None, "Unexpected end"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_a_broken_form_is_refused(shared: FilesApi, case):
    body, param, said = BAD[case]
    error = await shared.refused(body, 400)
    assert error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({"content-type": "application/json"}, 415, "accepts 'multipart/form-data'"),
        ({"content-type": ""}, 415, "accepts 'multipart/form-data'"),
        ({"content-type": "multipart/mixed; boundary=x"}, 415, "accepts 'multipart/form-data'"),
        ({"content-encoding": "gzip"}, 415, "uncompressed"),
        ({"content-type": "multipart/form-data"}, 400, "needs a 'boundary'"),
        ({"content-type": "multipart/form-data; boundary="}, 400, "needs a 'boundary'"),
        ({"content-type": 'multipart/form-data; boundary=""'}, 400, "needs a 'boundary'"),
        ({"content-type": f"multipart/form-data; boundary={'x' * 201}"}, 400, "needs a 'boundary'"),
        ({"content-type": 'multipart/form-data; boundary="a\u00e9"'.encode("latin-1")}, 400, "needs a 'boundary'"),
    ],
)
async def test_other_headers_are_refused(shared: FilesApi, headers, status, said):
    assert said in (await shared.refused(form(), status, headers))["message"]


async def test_what_is_around_a_form_is_ignored_however_it_arrives(api: FilesApi):
    generator = random.Random(1)
    body = b"preamble\r\n" + form(os.urandom(1000), name="a b.jsonl") + b"\r\nepilogue"

    async def pieces():
        rest = body
        while rest:
            size = generator.randint(1, 30)
            yield rest[:size]
            rest = rest[size:]

    for _ in range(20):
        answer = await api.send(pieces())
        assert (answer.status_code, answer.json()["bytes"]) == (200, 1000)


async def test_fields_in_any_order_are_taken(api: FilesApi):
    answer = await api.send(
        whole(FILE, part(EXPIRES, "4000"), part("expires_after[anchor]", "created_at"), PURPOSE)
    )
    created = answer.json()
    assert created["expires_at"] == created["created_at"] + 4000


async def test_unknown_fields_are_ignored_if_that_is_set(tmp_path: Path):
    async with files_serving(tmp_path, {"ALLOW_UNKNOWN_FIELDS": "true"}) as api:
        assert (await api.upload(new="x")).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"), [("http://api", 200), ("https://other.example", 403), ("null", 403)]
)
async def test_pages_of_other_origins_can_t_upload(api: FilesApi, origin, status):
    """Browsers send a form to any address without asking it first."""
    answer = await api.send(form(), {"origin": origin})
    assert answer.status_code == status


# Sizes


@pytest.mark.parametrize("declares", [True, False])
async def test_a_file_that_is_too_large_is_refused_while_it_arrives(api: FilesApi, declares):
    assert (await api.upload(b"x" * MIB)).status_code == 200
    sent = 0

    async def endless():
        nonlocal sent
        yield form()[:-30]
        while True:
            sent += 1
            yield b"x" * 65536

    headers = {"content-length": str(10**10)} if declares else {}
    error = await api.refused(endless(), 413, headers)
    assert "FILES_MAX_SIZE" in error["message"]
    assert error["param"] == "file"
    assert sent <= (0 if declares else MIB // 65536 + 1)


async def test_other_parts_don_t_make_a_body_endless(api: FilesApi):
    async def endless():
        while True:
            yield b"preamble" * 8192

    await api.refused(endless(), 413)


async def test_all_files_together_are_bounded_and_uploads_under_way_count(api: FilesApi):
    first = (await api.upload(b"x" * MIB)).json()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        body = form(b"y" * MIB)
        yield body[: -MIB // 2]
        begun.set()
        await go_on.wait()
        yield body[-MIB // 2 :]

    under_way = asyncio.create_task(api.send(slow()))
    await begun.wait()
    await eventually(lambda: len(api.kept()) == 2)
    answer = await api.upload(b"z" * MIB)
    assert answer.status_code == 200
    # Half of the second one has arrived.
    answer = await api.upload(b"z" * MIB)
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (507, "insufficient_storage")
    assert "FILES_MAX_TOTAL_SIZE" in error["message"]
    assert (await api.http.delete(f"{FILES}/{first['id']}")).status_code == 200
    go_on.set()
    assert (await under_way).status_code == 200
    assert (await api.upload(b"z" * (MIB - 4096))).status_code == 200
    error = await api.refused(form(b"z" * 8192), 507)
    assert error["code"] == "insufficient_storage"


async def test_what_other_processes_have_written_counts(api: FilesApi):
    (folder,) = api.folder.glob("files/*")
    (folder / "upload-of-another-process.new").write_bytes(b"x" * 3 * MIB)
    await api.refused(form(), 507)
    (folder / "upload-of-another-process.new").unlink()
    assert (await api.upload()).status_code == 200


# The disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "open"])
async def test_a_full_disk_is_an_error_that_leaves_nothing(api: FilesApi, monkeypatch, code, call):
    class FullDisk:
        """The module `os` on a disk that takes half of what is written."""

        def __getattr__(self, name: str):
            return full if name == call else getattr(os, name)

    written = []

    def full(target, data=b"", *_arguments):
        if call == "write" and not written:
            written.append(os.write(target, data[: len(data) // 2]))
            return written[0]
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(handles, "os", FullDisk())
    answer = await api.upload()
    assert answer.status_code == 507
    assert answer.headers["x-should-retry"] == "false"
    assert error_of(answer)["code"] == "insufficient_storage"
    assert str(api.folder) not in answer.text
    monkeypatch.undo()
    assert api.kept() == []
    assert (await api.upload()).status_code == 200


async def test_a_disk_that_fails_is_an_error_that_leaves_nothing(api: FilesApi, monkeypatch, caplog):
    def failing(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(handles.os, "fsync", failing)
    error = await api.refused(form(), 503)
    assert error["code"] == "files_unavailable"


async def test_a_database_that_fails_is_an_error(api: FilesApi, monkeypatch, caplog):
    await api.app.responses.stop()
    answer = await api.upload()
    assert (answer.status_code, error_of(answer)["code"]) == (503, "state_unavailable")


# Clients that leave


@pytest.mark.parametrize("sent", [0.1, 0.9])
async def test_a_client_that_leaves_leaves_nothing(api: FilesApi, sent):
    body = form(b"x" * MIB)
    async with listening(api) as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {FILES} HTTP/1.1\r\nhost: a\r\ncontent-type: {TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[: int(len(body) * sent)])
        await writer.drain()
        await eventually(lambda: len(api.kept()) == 1)
        writer.transport.abort()
        await eventually(lambda: api.kept() == [])
    assert not api.app.files.storage._received


async def test_a_client_that_stops_sending_is_refused_and_leaves_nothing(api: FilesApi):
    async with listening(api, timeout_s=0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST {FILES} HTTP/1.1\r\nhost: a\r\ncontent-type: {TYPE}\r\ncontent-length: 999\r\n\r\n".encode()
        )
        writer.write(form()[:-30])
        assert b"408" in (await reader.read()).partition(b"\r\n")[0]
        writer.close()
        await eventually(lambda: api.kept() == [])


async def test_an_upload_that_is_refused_early_is_answered(api: FilesApi):
    """Also to a client that goes on to send."""
    async with listening(api) as port, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        answer = await http.post(FILES, content=form(b"x" * 3 * MIB), headers={"content-type": TYPE})
        assert answer.status_code == 413
        answer = await http.post(FILES, content=form(), headers={"content-type": TYPE})
        assert answer.status_code == 200


async def test_an_upload_whose_task_is_cancelled_leaves_nothing(api: FilesApi):
    begun = asyncio.Event()

    async def stuck():
        yield form(b"x" * MIB)[:-60]
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(api.send(stuck()))
    await begun.wait()
    await eventually(lambda: len(api.kept()) == 1)
    task.cancel()
    # The application takes it for the end of the service, and answers nothing.
    await asyncio.gather(task, return_exceptions=True)
    await eventually(lambda: api.kept() == [])
