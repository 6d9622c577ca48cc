"""Files outlive the service; uploads that it did not finish don't."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from openai import OpenAI

from tests.conftest import free_port
from tests.processes import ServiceProcess
from tests.unit.files_serving import FILES, LINES, MIB, TYPE, form

pytestmark = pytest.mark.integration
HOURS_S = 2 * 3600


@contextmanager
def service(folder: Path) -> Iterator[ServiceProcess]:
    """A gateway whose server can't be reached, which files don't need."""
    process = ServiceProcess(
        {
            "EMBED_BACKEND": "off",
            "GEN_BACKEND": "vllm-http",
            "VLLM_GEN_URL": f"http://127.0.0.1:{free_port()}/v1",
            "MEMORIA_DATA_DIR": str(folder),
        }
    )
    try:
        process.wait_until_listening()
        yield process
    finally:
        process.end()


def kept(folder: Path) -> list[str]:
    """The names of all contents on the disk."""
    return sorted(path.name for path in folder.glob("files/*/*"))


def client_of(process: ServiceProcess) -> OpenAI:
    return OpenAI(base_url=f"{process.url}/v1", api_key="unused", max_retries=0)


def test_an_upload_in_the_middle_of_which_the_service_is_killed_leaves_nothing_that_counts(tmp_path: Path) -> None:
    body = form(b"x" * MIB)
    with service(tmp_path) as process:
        whole = client_of(process).files.create(file=("a.jsonl", LINES), purpose="batch")
        port = int(process.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = (
                f"POST {FILES} HTTP/1.1\r\nhost: a\r\ncontent-type: {TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body[: -MIB // 4])
            deadline = time.monotonic() + 30
            while not any(path.stat().st_size > MIB // 4 for path in tmp_path.glob("files/*/upload-*")):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.signal(9)
            process.wait()
    (leftover,) = set(kept(tmp_path)) - {whole.id}
    with service(tmp_path) as process:
        files = client_of(process).files
        assert [each.id for each in files.list()] == [whole.id]
        assert files.content(whole.id).content == LINES
        # It may belong to another process, which is still receiving it.
        assert kept(tmp_path) == sorted([whole.id, leftover])
    (path,) = tmp_path.glob(f"files/*/{leftover}")
    old = time.time() - HOURS_S
    os.utime(path, (old, old))
    with service(tmp_path) as process:
        process.wait_for_line("removed the contents of 1 file")
        assert kept(tmp_path) == [whole.id]
        assert client_of(process).files.content(whole.id).content == LINES


def test_the_service_does_not_start_on_a_folder_that_it_can_t_use(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("a file")
    process = ServiceProcess(
        {
            "EMBED_BACKEND": "off",
            "GEN_BACKEND": "vllm-http",
            "MEMORIA_DATA_DIR": str(tmp_path),
            "VLLM_GEN_URL": "http://127.0.0.1:9/v1",
        }
    )
    try:
        process.wait_for_line(r"MEMORIA_DATA_DIR: the folder \S+ for the contents of files can't be created")
        assert process.wait() == 2
    finally:
        process.end()
