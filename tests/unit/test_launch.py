"""`memoria launch` as a user calls it."""

import json
import shlex
import socket
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from app.cli import launch, main
from app.commands.launch.command import AGENTS
from app.settings import VARIABLES
from domain.openai.agent_models import agent_model_list
from domain.openai.models import Model

PATHS = {
    "codex": ".codex/config.toml",
    "claude": ".claude/settings.json",
    "opencode": ".config/opencode/opencode.json",
}
OTHERS = ("CODEX_HOME", "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME", "OPENCODE_CONFIG", "MEMORIA_API_KEY")
KEY = "sk-a-secret-of-the-service"


@pytest.fixture
def home(tmp_path, monkeypatch, logging_as_before):
    """An empty folder as the user's home and the current folder, without the user's settings."""
    monkeypatch.chdir(tmp_path)
    for name in [*(variable.name for variable in VARIABLES), *OTHERS]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str, **environ: str) -> Result:
    result = CliRunner().invoke(main, ["launch", *arguments], env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@contextmanager
def service(*models: Model, key: str | None = None, body: bytes | None = None) -> Iterator[tuple[str, list[str]]]:
    """A program that lists models as the service does; yields its address and the keys that it was sent."""
    content = msgspec.json.encode(agent_model_list(list(models), list(models))) if body is None else body
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("authorization", ""))
            is_allowed = key is None or keys[-1] == f"Bearer {key}"
            self.send_response(200 if self.path == "/v1/models" and is_allowed else 401)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def model(name: str = "big", context: int | None = 131_072) -> Model:
    return Model(id=name, created=1, max_model_len=context)


@pytest.fixture
def closed() -> Iterator[str]:
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def exported(result: Result) -> dict[str, str]:
    """The variables that a shell would set."""
    lines = [shlex.split(line) for line in result.stdout.splitlines()]
    assert all(words[0] == "export" and len(words) == 2 for words in lines)
    return dict(words[1].split("=", 1) for words in lines)


def is_refused(result: Result, *parts: str) -> bool:
    return (
        result.exit_code == 2
        and result.stdout == ""
        and "Traceback" not in result.stderr
        and all(part in result.stderr for part in parts)
    )


def test_the_help_offers_exactly_the_agents():
    assert isinstance(launch.params[0].type, click.Choice)
    assert list(launch.params[0].type.choices) == list(AGENTS) == list(PATHS)


def test_an_unknown_agent_is_refused_with_the_known_ones(home):
    assert is_refused(run("cursor"), "'cursor' is not one of 'codex', 'claude', 'opencode'")


# A running service


def test_codex_gets_a_provider_for_the_running_service(home):
    with service(model()) as (url, _):
        result = run("codex", "--url", url)
    assert result.exit_code == 0
    assert tomllib.loads(result.stdout) == {
        "model": "big",
        "model_provider": "memoria",
        "model_context_window": 131_072,
        "model_providers": {
            "memoria": {
                "name": "memoria",
                "base_url": f"{url}/v1",
                "env_key": "MEMORIA_API_KEY",
                "wire_api": "responses",
            }
        },
        "features": {"plugins": False},
    }
    assert f"{url} serves big, 131,072 tokens of context" in result.stderr
    assert "MEMORIA_API_KEY, which must be set" in result.stderr


def test_codex_gets_fewer_tools_for_a_short_context(home):
    with service(model("small", 32_768)) as (url, _):
        result = run("codex", "--url", url)
    written = tomllib.loads(result.stdout)
    assert written["web_search"] == "disabled"
    assert written["features"] == {"plugins": False, "api_key_model_discovery": True, "goals": False}
    assert written["agents"] == {"enabled": False}
    assert written["model_providers"]["memoria"]["model_catalog_url"] == f"{url}/v1/models"
    assert "fewer tools" in result.stderr


def test_claude_gets_variables_for_the_running_service(home):
    with service(model("it's big")) as (url, _):
        result = run("claude", "--url", url)
    variables = exported(result)
    assert variables["ANTHROPIC_BASE_URL"] == url
    assert variables["ANTHROPIC_MODEL"] == variables["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "it's big"
    assert variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "131072"
    assert variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "16384"
    assert "MAX_THINKING_TOKENS" not in variables
    assert "Set ANTHROPIC_AUTH_TOKEN" in result.stderr
    assert "--tools" not in result.stderr


@pytest.mark.parametrize(
    ("context", "answer", "is_bare", "hint"),
    [
        (32_768, "4096", False, "claude --tools Bash,Edit,Read,Write"),
        (8192, "1024", True, "three tools"),
        (2048, "256", True, "too few"),
    ],
)
def test_claude_gets_what_fits_a_short_context(home, context, answer, is_bare, hint):
    with service(model("small", context)) as (url, _):
        result = run("claude", "--url", url)
    variables = exported(result)
    assert variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(context)
    assert variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == answer
    assert variables["MAX_THINKING_TOKENS"] == "0"
    assert ("CLAUDE_CODE_SIMPLE" in variables) == is_bare
    assert hint in result.stderr


def test_opencode_gets_a_provider_with_the_models_limits(home):
    with service(model("org/name", 32_768)) as (url, _):
        result = run("opencode", "--url", url)
    written = json.loads(result.stdout)
    assert written["model"] == written["small_model"] == "memoria/org/name"
    assert written["provider"]["memoria"] == {
        "npm": "@ai-sdk/openai-compatible",
        "name": "memoria",
        "options": {"baseURL": f"{url}/v1", "apiKey": "{env:MEMORIA_API_KEY}"},
        "models": {
            "org/name": {"name": "org/name", "tool_call": True, "limit": {"context": 32_768, "output": 4096}}
        },
    }


@pytest.mark.parametrize("agent", AGENTS)
def test_the_option_chooses_among_the_served_names(home, agent):
    with service(model("big"), model("alias")) as (url, _):
        assert "alias" in run(agent, "--url", url, "--model", "alias").stdout
        assert is_refused(run(agent, "--url", url, "--model", "other"), "--model is 'other'", "serves big, alias")


def test_an_alias_that_codex_takes_for_openais_is_warned_about(home):
    with service(model("gpt-4o-mini")) as (url, _):
        assert "does not begin with gpt-" in run("codex", "--url", url).stderr
        assert "gpt-" not in run("claude", "--url", url).stderr.replace("gpt-4o-mini", "")


@pytest.mark.parametrize("written", ["{url}/", "{url}/v1", "{url}/v1/"])
def test_the_address_may_end_as_sdks_want_it(home, written):
    with service(model()) as (url, _):
        assert exported(run("claude", "--url", written.format(url=url)))["ANTHROPIC_BASE_URL"] == url


# Keys


@pytest.mark.parametrize("agent", AGENTS)
def test_keys_are_used_to_ask_and_neither_printed_nor_written(home, agent):
    with service(model(), key=KEY) as (url, keys):
        results = [run(agent, "--url", url, *write, MEMORIA_API_KEY=KEY) for write in ((), ("--write",))]
    assert keys == [f"Bearer {KEY}"] * 2
    everything = "".join(result.output for result in results) + (home / PATHS[agent]).read_text()
    assert "big" in everything
    assert KEY not in everything


def test_the_settings_keys_are_sent_to_this_service_alone(home):
    with service(model(), key=KEY) as (url, keys):
        port = url.rpartition(":")[2]
        assert "serves big" in run("codex", PORT=port, API_KEYS=KEY).stderr
        assert is_refused(run("codex", "--url", url, API_KEYS=KEY), "requires an API key; set MEMORIA_API_KEY")
    assert keys == [f"Bearer {KEY}", ""]


def test_a_rejected_key_is_reported(home):
    with service(model(), key=KEY) as (url, _):
        assert is_refused(run("codex", "--url", url, MEMORIA_API_KEY="sk-wrong"), "rejects the API key")


# No running service


@pytest.mark.parametrize("agent", AGENTS)
def test_without_a_running_service_the_settings_decide(home, closed, agent):
    port = closed.rpartition(":")[2]
    settings = {"PORT": port, "MODEL_GEN_NAME": "org/small", "VLLM_GEN_MAX_MODEL_LEN": "16384"}
    result = run(agent, **settings)
    assert result.exit_code == 0
    assert closed in result.stdout
    assert "org/small" in result.stdout
    assert "16384" in result.stdout
    assert f"{closed} does not answer" in result.stderr
    assert "made from the settings: org/small, 16,384 tokens" in result.stderr


@pytest.mark.parametrize("agent", AGENTS)
def test_an_unknown_context_length_is_left_out_and_reported(home, closed, agent):
    result = run(agent, PORT=closed.rpartition(":")[2], MODEL_GEN_NAME="org/small")
    assert result.exit_code == 0
    assert not {"context", "CONTEXT"} & set(result.stdout.replace('"', " ").replace("_", " ").split())
    assert "The context length is not known" in result.stderr


def test_a_local_model_has_its_folders_name(home, closed):
    (home / "tiny").mkdir()
    result = run("codex", PORT=closed.rpartition(":")[2], MODEL_GEN_NAME="./tiny")
    assert tomllib.loads(result.stdout)["model"] == "tiny"


def test_without_a_name_the_model_for_this_machine_is_taken(home, closed, monkeypatch):
    monkeypatch.setattr("app.engines.default_model_name", lambda role: f"default-{role}")
    result = run("codex", PORT=closed.rpartition(":")[2])
    assert tomllib.loads(result.stdout)["model"] == "default-generate"


def test_a_name_that_only_the_server_knows_has_to_be_given(home, closed):
    settings = {"PORT": closed.rpartition(":")[2], "GEN_BACKEND": "vllm-http"}
    assert is_refused(run("codex", **settings), "MODEL_GEN_NAME is not set", "--model")
    assert tomllib.loads(run("codex", "--model", "mine", **settings).stdout)["model"] == "mine"


def test_another_address_without_an_answer_needs_a_model(home, closed):
    # The settings of this folder are of another service.
    result = run("codex", "--url", closed, MODEL_GEN_NAME="org/small")
    assert is_refused(result, "does not answer", "--model")
    result = run("codex", "--url", closed, "--model", "mine")
    assert tomllib.loads(result.stdout)["model"] == "mine"
    assert "The model is not checked." in result.stderr


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"object":"list","data":[]}'])
def test_another_program_at_the_address_is_recognized(home, body):
    with service(body=body) as (url, _):
        assert is_refused(run("codex", "--url", url), "does not answer like this service (status 200")


def test_a_service_that_knows_no_model_yet_is_recognized(home):
    with service() as (url, _):
        assert is_refused(run("codex", "--url", url), "lists no generation model yet")


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"HOST": "0.0.0.0", "PORT": "1"}, "http://127.0.0.1:1"),
        ({"HOST": "::", "PORT": "1"}, "http://[::1]:1"),
        ({"HOST": "::1", "PORT": "1"}, "http://[::1]:1"),
        ({"HOST": "localhost", "PORT": "1"}, "http://localhost:1"),
    ],
)
def test_the_address_is_one_that_clients_can_connect_to(home, settings, url):
    assert exported(run("claude", MODEL_GEN_NAME="m", **settings))["ANTHROPIC_BASE_URL"] == url


def test_with_tls_the_address_is_https(home):
    for name in ("cert.pem", "key.pem"):
        (home / name).write_text("")
    files = {"TLS_CERT_FILE": "cert.pem", "TLS_KEY_FILE": "key.pem"}
    assert "https://127.0.0.1:1\n" in run("claude", MODEL_GEN_NAME="m", PORT="1", **files).stdout


@pytest.mark.parametrize(
    ("arguments", "settings", "parts"),
    [
        ([], {"PORT": "0"}, ["PORT is 0", "--url"]),
        ([], {"GEN_BACKEND": "off"}, ["GEN_BACKEND is off"]),
        ([], {"PORT": "x"}, ["PORT is 'x'"]),
        (["--url", "localhost:8200"], {}, ["--url must be the address"]),
        (["--url", ""], {}, ["--url must be the address"]),
        (["--url", "http://a:b@host"], {}, ["--url must be the address"]),
        (["--url", "http://host\n"], {}, ["--url must be the address"]),
    ],
)
@pytest.mark.parametrize("agent", AGENTS)
def test_mistakes_are_reported_in_a_sentence(home, agent, arguments, settings, parts):
    assert is_refused(run(agent, *arguments, **settings), *parts)
