import contextlib
import gc
import pickle
import select
import socket
import warnings
from collections.abc import Generator

import pytest

from app.api_processes import require_gateway, share
from app.http.connection_limits import ConnectionLimits
from app.http.server import bind, server_config
from app.settings import load_settings
from domain.errors import ConfigurationError


@contextlib.contextmanager
def occupied(port: int = 0) -> Generator[int, None, None]:
    with socket.socket() as other:
        # Another program's hold on the port is sufficient.
        with contextlib.suppress(OSError):
            other.bind(("127.0.0.1", port))
            other.listen()
        yield port or other.getsockname()[1]


def _no_application():
    raise AssertionError("never made")


def mistake(host: str, port: int = 0) -> str:
    with pytest.raises(ConfigurationError) as caught:
        bind(host, port).close()
    return str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_free_port_is_bound_and_accepts_connections(host):
    with bind(host, 0) as listener, socket.create_connection(listener.getsockname()[:2]) as client:
        assert client.getpeername()[1] == listener.getsockname()[1] > 0


def test_a_port_can_be_bound_again_immediately():
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        port = listener.getsockname()[1]
        listener.accept()[0].close()
    with bind("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


def test_a_port_in_use_is_reported_with_an_alternative():
    with occupied() as port:
        text = mistake("127.0.0.1", port)
    assert text.startswith(f"PORT: 127.0.0.1:{port} can't be used")
    assert f"PORT={port + 1}" in text


def test_the_alternative_to_the_last_port_exists():
    with occupied(65535):
        assert "65536" not in mistake("127.0.0.1", 65535)


def test_a_failed_bind_leaves_no_socket_open():
    with occupied() as port, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ResourceWarning)
        mistake("127.0.0.1", port)
        gc.collect()
    assert [one.message for one in found if "socket" in str(one.message)] == []


def test_an_unknown_host_is_reported(monkeypatch):
    # A real resolver would need a network.
    def resolve_nothing(*_arguments, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve_nothing)
    assert mistake("no.such.host").startswith("HOST: 'no.such.host'")


@pytest.mark.parametrize("host", ["a..b", "x" * 64], ids=["empty label", "label too long"])
def test_an_invalid_host_is_reported(host):
    assert mistake(host).startswith("HOST")


def test_an_address_of_another_machine_is_reported_for_host():
    # 192.0.2.0/24 is reserved for documentation (RFC 5737).
    assert mistake("192.0.2.1").startswith("HOST")


@pytest.mark.parametrize("inside", ["EMBED_BACKEND", "GEN_BACKEND"])
def test_several_processes_require_a_gateway(inside):
    gateway = {"EMBED_BACKEND": "vllm-http", "GEN_BACKEND": "vllm-http", "API_PROCESSES": "2"}
    require_gateway(load_settings(gateway))
    with pytest.raises(ConfigurationError, match=f"API_PROCESSES is 2, but {inside} is vllm-inprocess"):
        require_gateway(load_settings(gateway | {inside: "vllm-inprocess"}))


def test_one_process_may_run_engines_in_process():
    require_gateway(load_settings({}))


def test_each_of_several_processes_gets_the_same_limits_and_files():
    limits = {"MAX_CONNECTIONS": "7", "CLIENT_TIMEOUT_S": "3", "TLS_CERT_FILE": "a", "API_PROCESSES": "2"}
    settings = load_settings(limits)
    config = server_config(_no_application, settings)
    assert config.workers == 2
    sent = pickle.loads(pickle.dumps(config))
    assert sent.limits == config.limits == ConnectionLimits(max_connections=7, timeout_s=3)
    assert sent.ssl_certfile == settings.security.tls_cert_file


def test_a_shared_address_gives_each_process_its_own_listener():
    with bind("127.0.0.1", 0) as listener, share(listener) as address:
        copies = [pickle.loads(pickle.dumps(address)) for _ in range(2)]
        with copies[0], copies[1]:
            with pytest.raises(ConnectionRefusedError):
                # Until an application is there that answers.
                socket.create_connection(address.getsockname())
            for copy in copies:
                copy.listen()
            assert {copy.getsockname() for copy in copies} == {address.getsockname()}
            with socket.create_connection(address.getsockname()):
                readable, _, _ = select.select(copies, [], [], 5)
                assert len(readable) == 1
