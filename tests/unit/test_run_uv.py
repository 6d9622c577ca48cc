"""What pip is configured with, as uv gets it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_uv_script", ROOT / "deploy" / "run_uv.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run_uv = load()

PIP_CONF = """
[global]
index-url = https://index.example/simple
extra-index-url =
    https://one.example/simple
    https://two.example/simple
find-links = /a/folder https://links.example/all.html
constraint = ~/constraints.txt
trusted-host = index.example one.example:8443
cert = /etc/our certificates.pem
proxy = http://proxy.example:3128
timeout = 30

[install]
timeout = 60
no-index = false

[download]
index-url = https://another.example/simple
"""


@pytest.fixture
def pip_conf(tmp_path, monkeypatch):
    """A configuration file of pip; the function returns the options from it and from the variables given."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    (tmp_path / "pip.conf").write_text(PIP_CONF)

    def read(**variables: str) -> dict[str, str]:
        # pip reads this file after all others.
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return run_uv.pip_options()

    return read


def test_pips_configuration_file_reaches_uv(pip_conf):
    found = run_uv.uv_environment(pip_conf(), {"HOME": "/home/someone"})
    assert found["UV_INDEX_URL"] == "https://index.example/simple"
    assert found["UV_EXTRA_INDEX_URL"] == "https://one.example/simple https://two.example/simple"
    assert found["UV_FIND_LINKS"] == "/a/folder,https://links.example/all.html"
    assert found["UV_CONSTRAINT"] == os.path.expanduser("~/constraints.txt")
    assert found["UV_INSECURE_HOST"] == "index.example one.example:8443"
    assert found["SSL_CERT_FILE"] == "/etc/our certificates.pem"
    assert found["HTTPS_PROXY"] == found["HTTP_PROXY"] == "http://proxy.example:3128"
    assert found["HOME"] == "/home/someone"


def test_a_section_of_the_command_overrides_the_global_one_and_a_variable_both(pip_conf):
    assert run_uv.uv_environment(pip_conf(), {})["UV_HTTP_TIMEOUT"] == "60"
    options = pip_conf(PIP_TIMEOUT="90", PIP_INDEX_URL="https://set.example/simple")
    found = run_uv.uv_environment(options, {})
    assert (found["UV_HTTP_TIMEOUT"], found["UV_INDEX_URL"]) == ("90", "https://set.example/simple")


def test_what_is_set_for_uv_itself_takes_precedence():
    pip = {"index-url": "https://pip.example/simple", "cert": "/pip.pem"}
    found = run_uv.uv_environment(
        pip, {"UV_INDEX_URL": "https://uv.example/simple", "SSL_CERT_FILE": "/other.pem"}
    )
    assert found["UV_INDEX_URL"] == "https://uv.example/simple"
    assert found["SSL_CERT_FILE"] == "/pip.pem"


def test_certificates_are_those_of_the_system_or_of_the_variables_that_pip_reads():
    assert run_uv.uv_environment({}, {})["UV_SYSTEM_CERTS"] == "true"
    assert "SSL_CERT_FILE" not in run_uv.uv_environment({}, {})
    assert run_uv.uv_environment({}, {"REQUESTS_CA_BUNDLE": "/ours.pem"})["SSL_CERT_FILE"] == "/ours.pem"


def test_a_folder_of_certificates_is_passed_as_a_folder(tmp_path):
    passed = run_uv.uv_environment({}, {"REQUESTS_CA_BUNDLE": str(tmp_path)})
    assert passed["SSL_CERT_DIR"] == str(tmp_path)
    assert "SSL_CERT_FILE" not in passed


def test_uv_gets_whole_seconds():
    assert run_uv.uv_environment({"timeout": "60.5"}, {})["UV_HTTP_TIMEOUT"] == "61"


def test_without_a_configuration_no_source_is_set():
    found = run_uv.uv_environment({}, {})
    assert not {"UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CONSTRAINT"} & set(found)


@pytest.mark.parametrize(("value", "flags"), [("true", ["--no-index"]), ("1", ["--no-index"]), ("false", [])])
def test_an_index_that_pip_may_not_ask_is_not_asked_by_uv(value, flags):
    assert run_uv.uv_flags({"no-index": value}) == flags


def test_the_uv_beside_the_interpreter_is_run_with_all_that(tmp_path):
    # A stand-in for .venv/bin: an interpreter with pip, and a uv that prints what it gets.
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "uv").write_text('#!/bin/sh\necho "$UV_INDEX_URL $*"\n')
    for program in ("python", "uv"):
        (tmp_path / program).chmod(0o755)
    script = f"import sys; sys.executable = {str(tmp_path / 'python')!r}; sys.path.insert(0, 'deploy')\n"
    script += "import run_uv; run_uv.main()"
    printed = subprocess.run(
        [sys.executable, "-c", script, "pip", "install", "anything"],
        env=os.environ | {"PIP_INDEX_URL": "https://index.example/simple", "PIP_NO_INDEX": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert printed == "https://index.example/simple pip install anything --no-index\n"
