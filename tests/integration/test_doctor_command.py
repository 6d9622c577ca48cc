"""The real command, in a process of its own, on the machine that runs the tests."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.commands.doctor.composition import judged
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
    """Run it in an empty folder, with no setting and no hub of whoever runs the tests."""
    ours = {variable.name for variable in VARIABLES}
    inherited = {
        name: value for name, value in os.environ.items() if name not in ours and not name.startswith("HF_")
    }
    closed = {"HF_HOME": str(tmp_path / "hf"), "MEMORIA_CACHE_DIR": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        root = str(Path(__file__).parents[2])
        answer = subprocess.run(
            [sys.executable, "-m", "app.cli", "doctor", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env={**inherited, **closed, "PYTHONPATH": root, "PORT": "0", **environ},
            check=False,
        )
        assert "Traceback" not in answer.stderr
        return answer

    return run


def lines(answer):
    """By what was looked at: the verdicts."""
    found: dict[str, list[str]] = {}
    for finding in json.loads(answer.stdout)["findings"]:
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
    answer = doctor()
    assert answer.stderr == ""
    for check in ("python", "packages", "settings", "access", "port", "gpu", "embed model", "generate model",
                  "chat template", "memory", "/dev/shm", "disk"):  # fmt: skip
        assert re.search(rf"^(ok|warning|failure) +{check} ", answer.stdout, re.M), check
    assert "\x1b" not in answer.stdout, "plain where there is no terminal"
    has_failed = bool(re.search("^failure", answer.stdout, re.M))
    assert answer.returncode == has_failed


def test_a_gateway_before_servers_that_serve_is_well(doctor):
    with answering(MODELS) as one, answering(MODELS) as two:
        answer = doctor(
            "--json", EMBED_BACKEND="vllm-http", GEN_BACKEND="vllm-http", VLLM_EMBED_URL=one, VLLM_GEN_URL=two
        )
    found = lines(answer)
    assert (found["embed server"], found["generate server"]) == (["ok"], ["ok"])
    assert "memory" not in found
    assert answer.returncode == 0


def test_a_role_that_is_off_is_not_looked_at(doctor):
    with answering(MODELS) as one:
        answer = doctor("--json", EMBED_BACKEND="vllm-http", VLLM_EMBED_URL=one, GEN_BACKEND="off")
    found = lines(answer)
    assert found["embed server"] == ["ok"]
    assert not [check for check in found if check.startswith("generat") or check == "chat template"]
    assert answer.returncode == 0


def test_the_only_engine_is_looked_at_alone(doctor, tmp_path):
    model = folder(tmp_path / "model", "BertModel", tokenizer__json="{}")
    found = lines(doctor("--json", MODEL_EMBED_NAME=model, GEN_BACKEND="off"))
    assert "embed model" in found
    assert "memory" in found or "gpu memory" in found
    assert not [check for check in found if check.startswith("generat")]


def test_a_warning_is_no_failure(doctor, tmp_path):
    answer = doctor("--json", HOST="0.0.0.0", **gateway_of(tmp_path))
    assert lines(answer)["access"] == ["warning"]
    assert json.loads(answer.stdout)["verdict"] == "warning"
    assert answer.returncode == 0


def gateway_of(tmp_path: Path) -> dict[str, str]:
    """Models that are there, for both roles."""
    return {
        "MODEL_EMBED_NAME": folder(tmp_path / "embed", "BertModel"),
        "MODEL_GEN_NAME": folder(tmp_path / "gen", "LlamaForCausalLM", chat_template__jinja="{{ messages }}"),
    }


def test_all_mistakes_of_settings_are_told_at_once(doctor):
    answer = doctor(PORT="x", LOG_LEVEL="loud")
    assert len(re.findall(r"^failure +settings +(PORT|LOG_LEVEL) is", answer.stdout, re.M)) == 2
    assert answer.returncode == 1


def test_what_does_not_go_together_is_told_at_once(doctor):
    answer = doctor("--json", API_PROCESSES="2", TLS_CERT_FILE="none", KEY_TOKENS_PER_MINUTE="5")
    assert lines(answer)["settings"] == 3 * ["failure"]


def test_a_port_in_use_is_told(doctor):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = doctor("--json", PORT=str(taken.getsockname()[1]))
    assert lines(answer)["port"] == ["failure"]
    assert answer.returncode == 1


def test_models_of_the_wrong_kind_are_told(doctor, tmp_path):
    answer = doctor(
        "--json",
        MODEL_EMBED_NAME=folder(tmp_path / "one", "LlamaForCausalLM"),
        MODEL_GEN_NAME=folder(tmp_path / "two", "BertModel"),
    )
    found = lines(answer)
    assert (found["embed role"], found["generate role"]) == (["warning"], ["failure"])
    assert found["chat template"] == ["warning"]


def test_a_hub_that_answers_tells_how_much_will_be_fetched(doctor):
    with answering(HUB) as url:
        answer = doctor(MODEL_GEN_NAME="some/model", HF_ENDPOINT=url, HF_HUB_OFFLINE="0")
    assert re.search(r"ok +generate model +some/model will be fetched from the hub: 3\.0 GiB", answer.stdout)
    assert re.search(r"ok +generate role +Qwen3ForCausalLM", answer.stdout)
    assert re.search(r"ok +chat template +some/model has one", answer.stdout)
    assert re.search(r"disk +.* to fetch and unpack", answer.stdout)


def test_a_model_that_the_hub_does_not_have_is_told(doctor):
    with answering(HUB) as url:
        answer = doctor(MODEL_GEN_NAME="some/other", HF_ENDPOINT=url, HF_HUB_OFFLINE="0")
    assert re.search(r"^failure +generate model +.*the hub has no model 'some/other'", answer.stdout, re.M)


def test_a_cached_model_needs_no_hub_and_a_partial_one_does(doctor, tmp_path):
    snapshot = tmp_path / "hf" / "hub" / "models--some--model" / "snapshots" / (40 * "a")
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(40 * "a")
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    partial = doctor(MODEL_GEN_NAME="some/model")
    (snapshot / "model.safetensors").write_bytes(b"12")
    whole = doctor(MODEL_GEN_NAME="some/model")
    assert re.search("^failure +generate model +some/model is not all in the cache", partial.stdout, re.M)
    assert re.search("^ok +generate model +some/model is in the cache", whole.stdout, re.M)


def test_without_the_hub_nothing_is_waited_for(doctor):
    answer = doctor(MODEL_GEN_NAME="some/model", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert re.search("^failure +generate model +.*the hub can't be reached", answer.stdout, re.M)
    assert answer.stderr == ""


def test_a_name_that_no_model_can_have_is_a_line(doctor):
    answer = doctor("--json", MODEL_GEN_NAME="a\\0/b")
    assert answer.returncode == 1
    assert lines(answer)["generate model"] == ["failure"]


def test_a_check_that_fails_itself_is_a_line_after_what_it_found():
    def breaks() -> Iterator[Finding]:
        yield ok("thing", "is there")
        raise ZeroDivisionError("no such number")

    told = [(finding.verdict, finding.found) for finding in judged("thing", breaks)]
    assert told == [
        (Verdict.OK, "is there"),
        (Verdict.WARNING, "could not be looked at (ZeroDivisionError: no such number)"),
    ]
