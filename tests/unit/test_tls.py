import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn
from openai import AsyncOpenAI

from app.http.server import bind, server_config
from app.http.tls import require_pair
from app.settings import load_settings
from domain.errors import ConfigurationError
from tests.unit.serving import DEFAULTS, Api

KEY = "sk-served-0123456789"


def make_pair(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
         "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout",
         str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    for name in ("one", "other"):
        make_pair(folder, name)
    (folder / "text").write_text("no PEM")
    subprocess.run(
        ["openssl", "pkey", "-in", str(folder / "one.key"), "-aes128", "-passout", "pass:secret", "-out",
         str(folder / "locked.key")],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


def check(folder: Path, **names: str) -> None:
    require_pair(load_settings({name: str(folder / value) for name, value in names.items()}).security)


def test_two_files_that_belong_together_are_taken_and_none_too(folder):
    check(folder, TLS_CERT_FILE="one.pem", TLS_KEY_FILE="one.key")
    check(folder)


@pytest.mark.parametrize(
    ("files", "begin"),
    [
        ({"TLS_CERT_FILE": "one.pem"}, "TLS_CERT_FILE is set, but TLS_KEY_FILE is not"),
        ({"TLS_KEY_FILE": "one.key"}, "TLS_KEY_FILE is set, but TLS_CERT_FILE is not"),
        ({"TLS_CERT_FILE": "none", "TLS_KEY_FILE": "one.key"}, "TLS_CERT_FILE is '"),
        ({"TLS_CERT_FILE": "one.pem", "TLS_KEY_FILE": "none"}, "TLS_KEY_FILE is '"),
        ({"TLS_CERT_FILE": "text", "TLS_KEY_FILE": "one.key"}, "TLS_CERT_FILE is '"),
        ({"TLS_CERT_FILE": "one.pem", "TLS_KEY_FILE": "text"}, "TLS_KEY_FILE is '"),
        ({"TLS_CERT_FILE": "one.pem", "TLS_KEY_FILE": "locked.key"}, "TLS_KEY_FILE is '"),
        ({"TLS_CERT_FILE": "one.pem", "TLS_KEY_FILE": "other.key"}, "TLS_KEY_FILE is '"),
    ],
)
def test_a_mistake_names_its_variable(folder, files, begin):
    with pytest.raises(ConfigurationError) as caught:
        check(folder, **files)
    assert str(caught.value).startswith(begin)


# The service as it is served, on fake engines: TLS, keys and the official SDK


@contextlib.asynccontextmanager
async def served(**environ: str) -> AsyncGenerator[int, None]:
    """The port of the application on fake engines, served as the service serves it."""
    settings = load_settings(DEFAULTS | environ | {"LOG_LEVEL": "error"})
    config = server_config(Api(settings=environ).app, settings)
    config.install_signal_handlers = False
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    with bind("127.0.0.1", 0) as listener:
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            assert not running.done()
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        await running


@pytest.fixture(scope="module")
async def port(folder) -> AsyncGenerator[int, None]:
    files = {"TLS_CERT_FILE": str(folder / "one.pem"), "TLS_KEY_FILE": str(folder / "one.key")}
    async with served(API_KEYS=KEY, KEY_REQUESTS_PER_MINUTE="100", **files) as port:
        trust = ssl.create_default_context(cafile=folder / "one.pem")
        async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
            while (await client.get(f"https://localhost:{port}/health/ready")).status_code != 200:
                await asyncio.sleep(0.01)
        yield port


@contextlib.asynccontextmanager
async def sdk(folder: Path, port: int, key: str) -> AsyncGenerator[AsyncOpenAI, None]:
    trust = ssl.create_default_context(cafile=folder / "one.pem")
    async with (
        httpx.AsyncClient(verify=trust, trust_env=False) as http,
        AsyncOpenAI(
            base_url=f"https://localhost:{port}/v1", api_key=key, max_retries=0, http_client=http
        ) as client,
    ):
        yield client


async def test_the_official_sdk_asks_over_tls_with_its_key(folder, port):
    async with sdk(folder, port, KEY) as client:
        answer = await client.embeddings.with_raw_response.create(model="fake-embed", input="text")
        assert len(answer.parse().data) == 1
        assert answer.headers["x-ratelimit-limit-requests"] == "100"
        stream = await client.completions.create(model="fake-write", prompt="text", max_tokens=4, stream=True)
        assert len("".join([chunk.choices[0].text async for chunk in stream])) == 4


async def test_the_official_sdk_raises_its_authentication_error(folder, port):
    async with sdk(folder, port, "sk-wrong-0123456789") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.models.list()
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")


async def test_the_official_sdk_raises_its_rate_limit_error():
    async with (
        served(API_KEYS=KEY, KEY_REQUESTS_PER_MINUTE="1") as port,
        AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0) as client,
    ):
        ask = {"model": "fake-embed", "input": "text"}
        with contextlib.suppress(openai.InternalServerError):
            # The fake may not be ready yet; it counts as a request all the same.
            await client.embeddings.create(**ask)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.embeddings.create(**ask)
    assert (caught.value.type, caught.value.code) == ("requests", "rate_limit_exceeded")
    assert int(caught.value.response.headers["retry-after"]) >= 1


async def test_what_is_not_encrypted_gets_no_answer(port):
    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                return plain.recv(100)
        return b""

    assert b"HTTP" not in await asyncio.to_thread(ask)
