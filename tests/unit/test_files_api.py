"""The Files API as OpenAI's SDK uses it."""

import asyncio
import os
import stat
import time
from pathlib import Path

import httpx2
import psutil
import pytest
from openai import NotFoundError
from openai.types import FileObject

from tests.unit.files_serving import FILES, LINES, MIB, FilesApi, files_serving, form
from tests.unit.serving import Api, error_of, listening, serving
from tests.unit.waiting import eventually

KEYS = {"API_KEYS": "sk-alice-0123456789, sk-bob-0123456789"}
ALICE, BOB = KEYS["API_KEYS"].split(", ")
DAY_S = 86_400


@pytest.fixture
async def api(tmp_path: Path):
    async with files_serving(tmp_path) as running:
        yield running


async def test_a_file_is_uploaded_retrieved_downloaded_and_deleted(api: FilesApi):
    async with api.openai() as client:
        created = await client.files.create(file=("b\u00e4tch 1.jsonl", LINES), purpose="batch")
        assert (created.object, created.bytes, created.filename) == ("file", len(LINES), "b\u00e4tch 1.jsonl")
        assert (created.purpose, created.status) == ("batch", "processed")
        assert created.id.startswith("file-")
        assert abs(created.created_at - time.time()) < 60
        assert created.expires_at == created.created_at + 30 * DAY_S
        assert await client.files.retrieve(created.id) == created
        raw = await client.files.with_raw_response.content(created.id)
        assert raw.headers["content-length"] == str(len(LINES))
        assert raw.content == LINES
        assert api.kept() == [created.id]
        deleted = await client.files.delete(created.id)
        assert (deleted.id, deleted.object, deleted.deleted) == (created.id, "file", True)
        assert api.kept() == []
        for call in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(NotFoundError) as caught:
                await call(created.id)
            assert f"File with id '{created.id}' not found" in caught.value.message


async def test_a_path_and_its_expiry_are_taken(api: FilesApi, tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(LINES)
    async with api.openai() as client:
        created = await client.files.create(
            file=path, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
    assert created.filename == "lines.jsonl"
    assert created.expires_at == created.created_at + 3600


async def test_large_files_keep_every_byte_and_are_not_bounded_as_other_bodies(api: FilesApi):
    # Boundaries that begin and don't end, across chunks.
    content = b"\r\n--b0undar\r" * 300_000 + os.urandom(MIB)
    async with api.openai() as client:
        created = await client.files.create(file=("a", content), purpose="batch")
        assert created.bytes == len(content)
        assert (await client.files.content(created.id)).content == content


async def test_lists_are_paged_in_both_orders(api: FilesApi):
    async with api.openai() as client:
        ids = [(await client.files.create(file=(f"{n}", LINES), purpose="batch")).id for n in range(5)]
        assert [each.id async for each in client.files.list(limit=2)] == ids[::-1]
        assert [each.id async for each in client.files.list(limit=2, order="asc")] == ids
        assert [each.id async for each in client.files.list(after=ids[2], order="asc")] == ids[3:]
        assert [each.id async for each in client.files.list(purpose="batch_output")] == []
    page = (await api.http.get(FILES, params={"limit": 2})).json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", ids[4], ids[3], True)
    for each in page["data"]:
        FileObject.model_validate(each, strict=True)
    empty = (await api.http.get(FILES, params={"purpose": "evals"})).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "param", "status"),
    [
        ({"limit": "0"}, "limit", 400),
        ({"limit": "10001"}, "limit", 400),
        ({"order": "newest"}, "order", 400),
        ({"after": "file-0"}, "after", 404),
    ],
)
async def test_lists_that_can_t_be_made_are_refused(api: FilesApi, query, param, status):
    answer = await api.http.get(FILES, params=query)
    assert (answer.status_code, error_of(answer)["param"]) == (status, param)


async def test_a_file_is_visible_to_its_key_alone(tmp_path: Path):
    async with files_serving(tmp_path, KEYS) as api, api.openai(ALICE) as alice, api.openai(BOB) as bob:
        created = await alice.files.create(file=("a", LINES), purpose="batch")
        assert [each.id async for each in alice.files.list()] == [created.id]
        assert [each.id async for each in bob.files.list()] == []
        for call in (bob.files.retrieve, bob.files.content, bob.files.delete):
            with pytest.raises(NotFoundError) as own:
                await call(created.id)
            with pytest.raises(NotFoundError) as unknown:
                await call("file-0")
            assert own.value.message.replace(created.id, "file-0") == unknown.value.message
        assert (await alice.files.content(created.id)).content == LINES


async def test_uploads_count_against_the_requests_of_a_key(tmp_path: Path):
    async with files_serving(tmp_path, KEYS | {"KEY_REQUESTS_PER_MINUTE": "1"}) as api:
        api.http.headers["authorization"] = f"Bearer {ALICE}"
        assert (await api.upload()).status_code == 200
        await api.refused(form(), 429)


async def test_a_file_that_is_deleted_while_it_is_downloaded_arrives_whole(api: FilesApi):
    content = os.urandom(16 * MIB)
    created = (await api.upload(content)).json()
    async with (
        listening(api) as port,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
        http.stream("GET", f"{FILES}/{created['id']}/content") as answer,
    ):
        chunks = answer.aiter_raw(1000)
        received = [await anext(chunks)]
        assert (await api.http.delete(f"{FILES}/{created['id']}")).status_code == 200
        received += [chunk async for chunk in chunks]
    assert b"".join(received) == content


async def test_contents_that_are_missing_are_an_error(api: FilesApi, caplog):
    created = (await api.upload()).json()
    (path,) = api.folder.glob(f"files/*/{created['id']}")
    path.unlink()
    answer = await api.http.get(f"{FILES}/{created['id']}/content")
    assert (answer.status_code, error_of(answer)["code"]) == (503, "files_unavailable")


async def test_contents_are_readable_by_their_user_alone(tmp_path: Path):
    before = os.umask(0o022)
    try:
        async with files_serving(tmp_path / "new") as api:
            await api.upload()
            modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*") if path.is_file()}
            folders = {
                stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*") if path.is_dir()
            }
    finally:
        os.umask(before)
    assert (modes, folders) == ({0o600}, {0o700})


async def test_without_a_store_each_endpoint_names_the_setting():
    async with serving(Api()) as api:
        for method, path, status in (
            ("POST", FILES, 400),
            ("GET", FILES, 400),
            ("GET", f"{FILES}/file-1", 404),
            ("GET", f"{FILES}/file-1/content", 404),
            ("DELETE", f"{FILES}/file-1", 404),
        ):
            answer = await api.http.request(method, path)
            assert answer.status_code == status
            assert "STATE=on" in error_of(answer)["message"]


async def test_expired_files_and_leftovers_are_swept(api: FilesApi):
    files = api.app.files
    kept = (await api.upload()).json()["id"]
    expired = (await api.upload()).json()["id"]
    (folder,) = api.folder.glob("files/*")
    old = time.time() - 2 * 3600
    for name in ("upload-1.new", "file-orphan", "batch-1.output"):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (old, old))
    (folder / "upload-2.new").write_bytes(b"x")
    os.utime(folder / kept, (old, old))
    await api.app.responses.state._access.write(
        lambda connection: connection.exec_driver_sql(
            f"UPDATE memoria_files SET expires = {int(time.time()) - 1} WHERE id = '{expired}'"
        )
    )
    assert (await api.http.get(f"{FILES}/{expired}")).status_code == 404
    await files.sweep()
    assert api.kept() == [kept, "upload-2.new"]
    assert [each["id"] for each in (await api.http.get(FILES)).json()["data"]] == [kept]


async def test_a_download_that_is_left_is_ended(api: FilesApi):
    created = (await api.upload(os.urandom(16 * MIB))).json()
    async with listening(api) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {FILES}/{created['id']}/content HTTP/1.1\r\nhost: api\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        assert created["id"] in opened()
        writer.transport.abort()
        await eventually(lambda: created["id"] not in opened())


def opened() -> set[str]:
    """The names of all files that this process has open."""
    return {Path(each.path).name for each in psutil.Process().open_files()}
