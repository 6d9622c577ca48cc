"""What `memoria launch --write` does to the files of agents."""

import json
import os
import stat
import tomllib

import pytest

from app.commands.launch.command import AGENTS
from tests.unit.test_launch import PATHS, closed, home, is_refused, model, run, service

__all__ = ["closed", "home"]
CODEX = """\
# My settings
model = "gpt-5"  # the good one
approval_policy = "never"

[features]
goals = true

[mcp_servers.docs]
command = "docs-server" # as installed

[model_providers.other]
name = "Other"
base_url = "https://other.example/v1"
"""
CLAUDE = {
    "permissions": {"deny": ["WebFetch"]},
    "env": {"EDITOR": "vi", "ANTHROPIC_MODEL": "opus"},
    "model": "opus",
}
OPENCODE = {"theme": "größer", "provider": {"other": {"npm": "x"}, "memoria": {"options": {"timeout": 5}}}}
BEFORE = {"codex": CODEX, "claude": json.dumps(CLAUDE), "opencode": json.dumps(OPENCODE)}


def parsed(agent, text):
    return tomllib.loads(text) if agent == "codex" else json.loads(text)


@pytest.fixture
def url(home):
    with service(model("small", 32_768)) as (url, _):
        yield url


def put(home, agent, content):
    path = home / PATHS[agent]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def others(path):
    """The files beside one."""
    return sorted(other.name for other in path.parent.iterdir() if other != path)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_new_file_is_written_for_its_user_alone(home, url, agent):
    result = run(agent, "--url", url, "--write")
    path = home / PATHS[agent]
    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"Wrote {path}." in result.stderr
    assert "small" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert others(path) == []


@pytest.mark.parametrize("agent", ["codex", "opencode"])
def test_what_is_written_is_what_is_printed(home, url, agent):
    run(agent, "--url", url, "--write")
    assert (home / PATHS[agent]).read_text() == run(agent, "--url", url).stdout


def test_codex_keeps_what_is_there_with_its_comments(home, url):
    path = put(home, "codex", CODEX)
    result = run("codex", "--url", url, "--write")
    text = path.read_text()
    written = tomllib.loads(text)
    assert written["model"] == "small"
    assert written["model_providers"]["memoria"]["base_url"] == f"{url}/v1"
    assert written["model_providers"]["other"] == tomllib.loads(CODEX)["model_providers"]["other"]
    assert written["mcp_servers"] == {"docs": {"command": "docs-server"}}
    assert written["approval_policy"] == "never"
    # What the user has chosen of the tools stays.
    assert written["features"]["goals"] is True
    for comment in ("# My settings", "# the good one", "# as installed"):
        assert comment in text
    assert "Replaced: model." in result.stderr


def test_claude_keeps_what_is_there(home, url):
    path = put(home, "claude", json.dumps(CLAUDE))
    result = run("claude", "--url", url, "--write")
    written = json.loads(path.read_text())
    assert written["permissions"] == CLAUDE["permissions"]
    assert written["env"]["EDITOR"] == "vi"
    assert written["env"]["ANTHROPIC_MODEL"] == "small"
    assert list(written) == list(CLAUDE)
    assert "Replaced: env.ANTHROPIC_MODEL." in result.stderr


def test_opencode_keeps_what_is_there(home, url):
    path = put(home, "opencode", json.dumps(OPENCODE, ensure_ascii=False))
    run("opencode", "--url", url, "--write")
    written = json.loads(path.read_text())
    assert written["theme"] == "größer"
    assert "größer" in path.read_text()
    assert written["provider"]["other"] == {"npm": "x"}
    assert written["provider"]["memoria"]["options"] == {
        "timeout": 5,
        "baseURL": f"{url}/v1",
        "apiKey": "{env:MEMORIA_API_KEY}",
    }


@pytest.mark.parametrize("agent", AGENTS)
def test_the_file_as_it_was_is_kept_and_named(home, url, agent):
    path = put(home, agent, BEFORE[agent])
    path.chmod(0o640)
    result = run(agent, "--url", url, "--write")
    backup = path.with_name(f"{path.name}.before-memoria")
    assert backup.read_text() == BEFORE[agent]
    assert f"The file as it was: {backup}." in result.stderr
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, backup)] == [0o640, 0o640]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_second_time_changes_nothing(home, url, agent):
    path = put(home, agent, BEFORE[agent])
    run(agent, "--url", url, "--write")
    after, copies = path.read_text(), others(path)
    result = run(agent, "--url", url, "--write")
    assert "has this configuration already" in result.stderr
    assert (path.read_text(), others(path)) == (after, copies)


@pytest.mark.parametrize("agent", AGENTS)
def test_earlier_copies_stay(home, url, agent):
    path = put(home, agent, BEFORE[agent])
    run(agent, "--url", url, "--write")
    with service(model("other", 16_384)) as (elsewhere, _):
        run(agent, "--url", elsewhere, "--write")
    assert others(path) == [f"{path.name}.before-memoria", f"{path.name}.before-memoria-2"]
    assert path.with_name(f"{path.name}.before-memoria").read_text() == BEFORE[agent]
    assert elsewhere in path.read_text()


@pytest.mark.parametrize("agent", AGENTS)
def test_a_link_stays_a_link(home, url, agent):
    real = home / "dotfiles" / "file"
    real.parent.mkdir()
    real.write_text(BEFORE[agent])
    path = home / PATHS[agent]
    path.parent.mkdir(parents=True)
    path.symlink_to(real)
    run(agent, "--url", url, "--write")
    assert path.is_symlink()
    assert "small" in real.read_text()


@pytest.mark.parametrize(
    ("agent", "variable", "value", "path"),
    [
        ("codex", "CODEX_HOME", "elsewhere", "elsewhere/config.toml"),
        ("claude", "CLAUDE_CONFIG_DIR", "elsewhere", "elsewhere/settings.json"),
        ("opencode", "OPENCODE_CONFIG", "elsewhere/mine.json", "elsewhere/mine.json"),
        ("opencode", "XDG_CONFIG_HOME", "elsewhere", "elsewhere/opencode/opencode.json"),
    ],
)
def test_the_agents_own_variables_choose_the_file(home, url, agent, variable, value, path):
    run(agent, "--url", url, "--write", **{variable: str(home / value)})
    assert "small" in (home / path).read_text()
    assert not (home / PATHS[agent]).exists()


@pytest.mark.parametrize(
    ("agent", "content", "reason"),
    [
        ("codex", "model = ", "is not valid TOML"),
        ("codex", 'model = "a"\nmodel = "b"\n', "is not valid TOML"),
        ("codex", 'model_providers = "none"\n', "'model_providers' that is not a table"),
        ("codex", "[[model_providers]]\nname = 'x'\n", "'model_providers' that is not a table"),
        ("codex", 'model_providers.other.name = "x"\n', "can't be changed without a risk"),
        ("claude", "{", "is not valid JSON"),
        ("claude", '// mine\n{"model": "opus"}', "Comments are not understood"),
        ("claude", "[]", "is not a JSON object"),
        ("claude", '{"env": "x"}', "'env' that is not a table"),
        ("claude", "[" * 100_000, "is not valid JSON"),
        ("opencode", '{"provider": []}', "'provider' that is not a table"),
        *((agent, b"\xff\xfe", "is not text in UTF-8") for agent in AGENTS),
    ],
)
def test_a_file_that_is_not_understood_is_left_alone(home, url, agent, content, reason):
    path = put(home, agent, content)
    before = path.read_bytes()
    result = run(agent, "--url", url, "--write")
    assert is_refused(result, str(path), reason)
    assert path.read_bytes() == before
    assert others(path) == []


@pytest.mark.parametrize(
    "content",
    [
        'model_providers = { other = { name = "x" } }\n',
        '[model_providers.memoria]\nname = "mine"\nquery_params = { a = "b" }\n',
        "[model_providers.a]\nx = 1\n[features]\ngoals = true\n[model_providers.b]\nx = 2\n",
        "features.goals = true\n[other]\nx = 1\n",
        "model='a'\r\n[other]\r\nx = 1\r\n",
        '[profiles.p]\nmodel = "x"',
        "# only a comment",
    ],
)
def test_codex_files_of_every_form_keep_their_values(home, url, content):
    path = put(home, "codex", content)
    result = run("codex", "--url", url, "--write")
    assert result.exit_code == 0, result.stderr
    written, before = tomllib.loads(path.read_bytes().decode()), tomllib.loads(content)
    assert written["model"] == "small"
    assert written["model_providers"]["memoria"]["wire_api"] == "responses"
    kept = {name: value for name, value in before.items() if name not in ("model", "model_providers", "features")}
    assert {name: written[name] for name in kept} == kept
    providers = before.get("model_providers", {})
    for name, provider in providers.items():
        assert written["model_providers"][name] == provider | written["model_providers"][name]
    assert before.get("features", {}).items() <= written["features"].items()


@pytest.mark.parametrize("agent", AGENTS)
def test_a_folder_in_place_of_the_file_is_reported(home, url, agent):
    (home / PATHS[agent]).mkdir(parents=True)
    assert is_refused(run(agent, "--url", url, "--write"), PATHS[agent], "can't be changed: Is a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("agent", AGENTS)
def test_a_folder_that_is_read_only_is_reported(home, url, agent):
    path = put(home, agent, BEFORE[agent])
    path.parent.chmod(0o500)
    assert is_refused(run(agent, "--url", url, "--write"), "can't be changed: Permission denied")


@pytest.mark.parametrize("agent", AGENTS)
def test_a_file_in_place_of_the_folder_is_reported(home, url, agent):
    path = home / PATHS[agent]
    folder = home / path.relative_to(home).parts[0]
    folder.write_text("")
    assert is_refused(run(agent, "--url", url, "--write"), "can't be changed:", str(folder))


def test_a_write_that_fails_leaves_the_file_as_it_was(home, url, monkeypatch):
    path = put(home, "codex", CODEX)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    assert is_refused(run("codex", "--url", url, "--write"), "No space left on device")
    assert path.read_text() == CODEX
    assert others(path) == ["config.toml.before-memoria"]
