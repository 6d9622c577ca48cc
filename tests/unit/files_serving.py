"""The Files API on fake engines, with a store in a folder, and forms to upload."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import httpx2
from openai import AsyncOpenAI

from tests.unit.serving import Api, error_of, listening, serving

FILES = "/v1/files"
MIB = 2**20
BOUNDARY = "b0undary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
LINES = b'{"custom_id": "1"}\n{"custom_id": "2"}\n'


class FilesApi(Api):
    """The application with a store."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None, **options: Any) -> None:
        super().__init__(settings={"STATE": "on", "MEMORIA_DATA_DIR": str(folder)} | (settings or {}), **options)
        self.folder = folder

    def kept(self) -> list[str]:
        """The names of all contents on the disk."""
        return sorted(path.name for path in self.folder.glob("files/*/*"))

    async def upload(self, content: bytes = LINES, *, name: str = "a.jsonl", **fields: str) -> httpx.Response:
        return await self.send(form(content, name=name, **fields))

    async def send(self, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.http.post(FILES, content=body, headers={"content-type": TYPE} | (headers or {}))

    async def refused(self, body: Any, status: int, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """The error for an upload, which leaves nothing."""
        before = self.kept()
        answer = await self.send(body, headers)
        assert answer.status_code == status, answer.text
        assert self.kept() == before
        assert not self.app.files.storage._received
        return error_of(answer)

    @contextlib.asynccontextmanager
    async def openai(self, key: str = "any", **limits: Any) -> AsyncGenerator[AsyncOpenAI, None]:
        """OpenAI's SDK, over a connection."""
        async with (
            listening(self, **limits) as port,
            httpx2.AsyncClient() as http,
            AsyncOpenAI(
                api_key=key, base_url=f"http://127.0.0.1:{port}/v1", http_client=http, max_retries=0
            ) as client,
        ):
            yield client


@contextlib.asynccontextmanager
async def files_serving(folder: Path, settings: dict[str, str] | None = None) -> AsyncGenerator[FilesApi, None]:
    """The application with a store in this folder."""
    api = FilesApi(folder, settings)
    await api.app.responses.start()
    try:
        assert api.app.files is not None
        await api.app.files.start()
        async with serving(api):
            yield api
        await api.app.files.stop()
    finally:
        await api.app.responses.stop()


def part(name: str, value: bytes | str, *, file_name: str | None = None) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    file = "" if file_name is None else f'; filename="{file_name}"\r\nContent-Type: application/jsonl'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def whole(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def form(content: bytes = LINES, *, name: str = "a.jsonl", **fields: str) -> bytes:
    """A form as OpenAI's SDK sends it: the file comes last."""
    values = {"purpose": "batch"} | fields
    return whole(*(part(each, value) for each, value in values.items()), part("file", content, file_name=name))
