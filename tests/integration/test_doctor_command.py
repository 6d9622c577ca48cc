"""`memoria doctor` in a process of its own, on the machine that runs the tests."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.commands.doctor.composition import run_check
from app.commands.doctor.finding import Finding, Verdict, ok
from app.settings import VARIABLES
from tests.unit.doctor.stand_in import answering

MODELS = {"/v1/models": (200, b'{"data":[{"id":"m"}]}')}
CONFIG = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
HUB_FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer_config.json": b'{"chat_template":"{{ messages }}"}',
}
HUB_MODEL = {
    "id": "some/model",
    "siblings": [
        {"rfilename": "model.safetensors", "size": 3 * 2**30},
        {"rfilename": "pytorch_model.bin", "size": 9 * 2**30},
        {"rfilename": "original/model.safetensors", "size": 9 * 2**30},
        *({"rfilename": name, "size": len(text)} for name, text in HUB_FILES.items()),
    ],
}
HUB = {
    "/api/models/some/model": (200, json.dumps(HUB_MODEL).encode()),
    **{f"/some/model/resolve/main/{name}": (200, text) for name, text in HUB_FILES.items()},
}


@pytest.fixture
def doctor(tmp_path):
    """Run it in an empty folder, without the user's settings and hub cache."""
    ours = {variable.name for variable in VARIABLES}
    inherited = {
        name: value for name, value in os.environ.items() if name not in ours and not name.startswith("HF_")
    }
    closed = {"HF_HOME": str(tmp_path / "hf"), "MEMORIA_CACHE_DIR": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        root = str(Path(__file__).parents[2])
        result = subprocess.run(
            [sys.executable, "-m", "app.cli", "doctor", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env={**inherited, **closed, "PYTHONPATH": root, "PORT": "0", **environ},
            check=False,
        )
        assert "Traceback" not in result.stderr
        return result

    return run


def verdicts(result):
    """The verdicts by check."""
    found: dict[str, list[str]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        found.setdefault(finding["check"], []).append(finding["verdict"])
    return found


def folder(path: Path, architecture: str, **files: str) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (path / "model.safetensors").write_bytes(b"12")
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return str(path)


def test_this_machine(doctor):
    result = doctor()
    assert result.stderr == ""
    for check in ("python", "packages", "settings", "access", "port", "gpu", "embed model", "generate model",
                  "chat template", "memory", "/dev/shm", "disk"):  # fmt: skip
        assert re.search(rf"^(ok|warning|failure) +{check} ", result.stdout, re.M), check
    assert "\x1b" not in result.stdout, "no colors without a terminal"
    has_failed = bool(re.search("^failure", result.stdout, re.M))
    assert result.returncode == has_failed


def test_a_gateway_with_working_servers_passes(doctor):
    with answering(MODELS) as one, answering(MODELS) as two:
        result = doctor(
            "--json", EMBED_BACKEND="vllm-http", GEN_BACKEND="vllm-http", VLLM_EMBED_URL=one, VLLM_GEN_URL=two
        )
    found = verdicts(result)
    assert (found["embed server"], found["generate server"]) == (["ok"], ["ok"])
    assert "memory" not in found
    assert result.returncode == 0


def test_a_disabled_role_is_not_checked(doctor):
    with answering(MODELS) as one:
        result = doctor("--json", EMBED_BACKEND="vllm-http", VLLM_EMBED_URL=one, GEN_BACKEND="off")
    found = verdicts(result)
    assert found["embed server"] == ["ok"]
    assert not [check for check in found if check.startswith("generat") or check == "chat template"]
    assert result.returncode == 0


def test_a_single_engine_is_checked_alone(doctor, tmp_path):
    model = folder(tmp_path / "model", "BertModel", tokenizer__json="{}")
    found = verdicts(doctor("--json", MODEL_EMBED_NAME=model, GEN_BACKEND="off"))
    assert "embed model" in found
    assert "memory" in found or "gpu memory" in found
    assert not [check for check in found if check.startswith("generat")]


def test_a_warning_is_not_a_failure(doctor, tmp_path):
    result = doctor("--json", HOST="0.0.0.0", **gateway_of(tmp_path))
    assert verdicts(result)["access"] == ["warning"]
    assert json.loads(result.stdout)["verdict"] == "warning"
    assert result.returncode == 0


def gateway_of(tmp_path: Path) -> dict[str, str]:
    """Settings with existing models for both roles."""
    return {
        "MODEL_EMBED_NAME": folder(tmp_path / "embed", "BertModel"),
        "MODEL_GEN_NAME": folder(tmp_path / "gen", "LlamaForCausalLM", chat_template__jinja="{{ messages }}"),
    }


def test_all_invalid_settings_are_reported_at_once(doctor):
    result = doctor(PORT="x", LOG_LEVEL="loud")
    assert len(re.findall(r"^failure +settings +(PORT|LOG_LEVEL) is", result.stdout, re.M)) == 2
    assert result.returncode == 1


def test_all_conflicting_settings_are_reported_at_once(doctor):
    result = doctor("--json", API_PROCESSES="2", TLS_CERT_FILE="none", KEY_TOKENS_PER_MINUTE="5")
    assert verdicts(result)["settings"] == 3 * ["failure"]


def test_a_port_in_use_is_reported(doctor):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = doctor("--json", PORT=str(taken.getsockname()[1]))
    assert verdicts(result)["port"] == ["failure"]
    assert result.returncode == 1


def test_models_of_the_wrong_kind_are_reported(doctor, tmp_path):
    result = doctor(
        "--json",
        MODEL_EMBED_NAME=folder(tmp_path / "one", "LlamaForCausalLM"),
        MODEL_GEN_NAME=folder(tmp_path / "two", "BertModel"),
    )
    found = verdicts(result)
    assert (found["embed role"], found["generate role"]) == (["warning"], ["failure"])
    assert found["chat template"] == ["warning"]


def test_the_download_size_is_reported(doctor):
    with answering(HUB) as url:
        result = doctor(MODEL_GEN_NAME="some/model", HF_ENDPOINT=url, HF_HUB_OFFLINE="0")
    assert re.search(r"ok +generate model +some/model will be fetched from the hub: 3\.0 GiB", result.stdout)
    assert re.search(r"ok +generate role +Qwen3ForCausalLM", result.stdout)
    assert re.search(r"ok +chat template +some/model has one", result.stdout)
    assert re.search(r"disk +.* to fetch and unpack", result.stdout)


def test_a_model_missing_on_the_hub_is_reported(doctor):
    with answering(HUB) as url:
        result = doctor(MODEL_GEN_NAME="some/other", HF_ENDPOINT=url, HF_HUB_OFFLINE="0")
    assert re.search(r"^failure +generate model +.*the hub has no model 'some/other'", result.stdout, re.M)


def test_a_cached_model_needs_no_hub_and_a_partial_one_does(doctor, tmp_path):
    snapshot = tmp_path / "hf" / "hub" / "models--some--model" / "snapshots" / (40 * "a")
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(40 * "a")
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    partial = doctor(MODEL_GEN_NAME="some/model")
    (snapshot / "model.safetensors").write_bytes(b"12")
    whole = doctor(MODEL_GEN_NAME="some/model")
    assert re.search(
        "^failure +generate model +some/model is not completely in this machine's cache", partial.stdout, re.M
    )
    assert re.search("^ok +generate model +some/model is in this machine's cache", whole.stdout, re.M)


def test_an_unreachable_hub_does_not_delay(doctor):
    result = doctor(MODEL_GEN_NAME="some/model", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert re.search("^failure +generate model +.*the hub can't be reached", result.stdout, re.M)
    assert result.stderr == ""


def test_an_invalid_model_name_is_a_finding(doctor):
    result = doctor("--json", MODEL_GEN_NAME="a\\0/b")
    assert result.returncode == 1
    assert verdicts(result)["generate model"] == ["failure"]


def test_a_crashing_check_is_a_warning_after_its_findings():
    def breaks() -> Iterator[Finding]:
        yield ok("thing", "is there")
        raise ZeroDivisionError("no such number")

    told = [(finding.verdict, finding.found) for finding in run_check("thing", breaks)]
    assert told == [
        (Verdict.OK, "is there"),
        (Verdict.WARNING, "could not be checked (ZeroDivisionError: no such number)"),
    ]
