import importlib.metadata
import json
import signal
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.settings import VARIABLES

ELSEWHERE = {"EMBED_BACKEND": "vllm-http", "GEN_BACKEND": "vllm-http", "PORT": "0"}


@pytest.fixture(autouse=True)
def _signals_as_before(logging_as_before):
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def memoria(tmp_path, monkeypatch):
    """Runs the command in an empty folder, without the user's settings."""
    monkeypatch.chdir(tmp_path)
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.setenv("MEMORIA_DATA_DIR", str(tmp_path / "data"))

    def run(*arguments: str, **environ: str) -> Result:
        return CliRunner().invoke(main, arguments, env=environ)

    return run


def test_engine_processes_do_not_load_the_web_framework():
    # They import the command's module again when they start.
    slow = "{'litestar', 'uvicorn', 'httpx', 'rich', 'vllm', 'torch'}"
    code = f"import sys, app.cli; print(sorted({slow} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_help_names_the_commands(memoria):
    message = memoria("-h")
    assert message.exit_code == 0
    assert "serve" in message.stdout
    assert "models" in message.stdout


def test_the_version_is_the_packages(memoria):
    assert importlib.metadata.version("memoria-vllm") in memoria("--version").stdout


def is_reported(result: Result, *names: str) -> bool:
    """Whether the mistakes are named on standard error, without a traceback, by exit status 2."""
    return (
        result.exit_code == 2
        and result.stdout == ""
        and "Traceback" not in result.stderr
        and all(name in result.stderr for name in names)
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("HOST", "a b"),
        ("LOG_LEVEL", "loud"),
        ("MAX_BODY_BYTES", "0"),
        ("API_KEYS", "short"),
        ("API_KEYS_FILE", "none"),
        ("KEY_REQUESTS_PER_MINUTE", "60"),
        ("TLS_CERT_FILE", "none"),
        ("EMBED_BACKEND", "vllm"),
        ("GEN_BACKEND", "no_such_package.factory"),
        ("VLLM_GEN_URL", "localhost"),
        ("VLLM_EMBED_GPU_MEMORY", "2"),
    ],
)
def test_an_invalid_setting_ends_serve_with_its_name(memoria, name, value):
    assert is_reported(memoria("serve", **{**ELSEWHERE, name: value}), name)


@pytest.mark.parametrize("command", ["serve", "models"])
def test_all_mistakes_are_reported_together(memoria, command):
    result = memoria(command, **{**ELSEWHERE, "PORT": "x", "LOG_LEVEL": "y"})
    assert is_reported(result, "PORT is 'x'", "LOG_LEVEL is 'y'")


@pytest.mark.parametrize(("option", "name"), [("--port", "PORT"), ("--host", "HOST")])
def test_an_option_overrides_its_variable_and_is_validated(memoria, option, name):
    assert is_reported(memoria("serve", option, "a b", **ELSEWHERE), f"{name} is 'a b'")


def test_a_port_in_use_ends_serve_before_anything_starts(memoria):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = memoria("serve", "--port", str(port), **{**ELSEWHERE, "EMBED_BACKEND": "no_such_package.factory"})
    assert is_reported(result, f"PORT: 127.0.0.1:{port}")
    assert "no_such_package" not in result.stderr


def test_an_unknown_option_is_reported(memoria):
    assert is_reported(memoria("serve", "--prot", "1"), "--prot")


def test_a_mistake_in_the_dotenv_file_is_reported(memoria, tmp_path):
    (tmp_path / ".env").write_text("GEN_BACKEND=x\n")
    assert is_reported(memoria("serve", PORT="0"), "GEN_BACKEND is 'x'")


def test_a_binary_dotenv_file_is_reported(memoria, tmp_path):
    (tmp_path / ".env").write_bytes(b"HOST=\xff\n")
    assert is_reported(memoria("serve", **ELSEWHERE), ".env")


def test_a_misspelled_name_in_the_dotenv_file_is_reported(memoria, tmp_path):
    (tmp_path / ".env").write_text("MODEL_EMBD_NAME=x\n")
    result = memoria("serve", **{**ELSEWHERE, "GEN_BACKEND": "no_such_package.factory"})
    assert is_reported(result, "Did you mean MODEL_EMBED_NAME?")


@pytest.mark.parametrize(
    "more", [{"GEN_BACKEND": "no_such_package.factory"}, {"HOST": "no.such.host"}, {"API_KEYS_FILE": "none"}]
)
def test_a_startup_error_has_the_logs_format(memoria, tmp_path, more):
    (tmp_path / ".env").write_text("MODEL_EMBD_NAME=x\n")
    warning, line = memoria("serve", **{**ELSEWHERE, "LOG_FORMAT": "json", **more}).stderr.splitlines()
    assert (json.loads(warning)["level"], json.loads(line)["level"]) == ("warning", "error")
    assert next(iter(more)) in json.loads(line)["message"]
    text = memoria("serve", **{**ELSEWHERE, "LOG_FORMAT": "text", **more}).stderr
    assert text.startswith("memoria: .env sets MODEL_EMBD_NAME")
    assert '{"' not in text


def test_a_host_open_to_the_network_is_reported(memoria):
    result = memoria("serve", **{**ELSEWHERE, "HOST": "0.0.0.0", "GEN_BACKEND": "no_such_package.factory"})
    assert "anyone who can reach this machine can use the models without an API key" in result.stderr


@pytest.mark.parametrize("name", ["all-minilm", "./no-such-folder", "a/b/c"])
def test_a_model_that_does_not_exist_ends_models_with_its_setting(memoria, name):
    assert is_reported(memoria("models", MODEL_EMBED_NAME=name), "MODEL_EMBED_NAME", name)


def test_local_models_are_printed_with_their_folders(memoria, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    result = memoria("models", MODEL_EMBED_NAME="./one", MODEL_GEN_NAME=str(tmp_path / "two"))
    assert result.exit_code == 0
    assert result.stdout == f"embed\tone\t{tmp_path / 'one'}\ngenerate\ttwo\t{tmp_path / 'two'}\n"


def test_a_signal_before_serving_ends_the_command_cleanly(memoria):
    memoria("models", MODEL_EMBED_NAME="./no-such-folder")
    with pytest.raises(SystemExit) as caught:
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM


def test_a_benchmark_of_nothing_says_what_to_do(memoria):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert is_reported(memoria("bench", "--url", url), url, "make serve", "--compare")
