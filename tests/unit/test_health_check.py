"""deploy/health_check.py as a container runs it, against servers that speak."""

import http.server
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.deployment import DEPLOY
from tests.unit.test_tls import make_pair


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health/live" else 503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Generator[int, None, None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.handle_error = lambda *_: None  # a client that speaks no TLS, and is turned away
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def check(*arguments: str) -> int:
    command = [sys.executable, str(DEPLOY / "health_check.py"), *arguments]
    environment = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode


@pytest.mark.parametrize(("path", "code"), [("live", 0), ("ready", 1)])
def test_a_200_is_healthy_and_a_503_is_not(path, code):
    with serving() as port:
        assert check(f"http://127.0.0.1:{port}/health/{path}") == code


@pytest.mark.parametrize(("path", "code"), [("live", 0), ("ready", 1)])
def test_a_service_that_speaks_tls_is_asked_that_way(path, code, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_pair(tmp_path, "own"))
    with serving(context) as port:
        assert check(f"http://127.0.0.1:{port}/health/{path}") == code


def test_where_nobody_listens_it_is_unhealthy():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert check(f"http://127.0.0.1:{probe.getsockname()[1]}/health/live") == 1


def test_without_an_address_it_says_how_it_is_used():
    assert check() == 1
