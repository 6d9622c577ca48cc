"""What a person can get wrong is said in a sentence, before an engine starts, and never as a traceback."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.processes import MEMORIA, ROOT, tiny_environment

pytestmark = pytest.mark.integration


def memoria(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    answer = subprocess.run(
        [str(MEMORIA), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        check=False,
    )
    assert "Traceback" not in answer.stderr
    return answer


def test_every_mistake_is_reported_at_once() -> None:
    answer = memoria("serve", PORT="eighty", EMBED_BACKEND="vlm-http", VLLM_GEN_URL="localhost:8101")
    assert answer.returncode == 2
    for name in ("PORT", "EMBED_BACKEND", "VLLM_GEN_URL", "did you mean vllm-http"):
        assert name in answer.stderr


def test_a_port_in_use_is_said_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = memoria("serve", PORT=port)
    assert answer.returncode == 2
    assert port in answer.stderr
    assert "loading" not in answer.stderr


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/no/such/folder", "there is no folder"),
        ("SmolLM2-135M", "Did you mean 'SmolLM2-135M-Instruct'"),
        ("nobody/nothing-of-this-name", "can't be reached"),
    ],
)
def test_a_wrong_model_is_said_before_an_engine_starts(name: str, told: str) -> None:
    answer = memoria("serve", "--port", "0", MODEL_GEN_NAME=name)
    assert answer.returncode == 2
    assert "MODEL_GEN_NAME" in answer.stderr
    assert told in answer.stderr


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    answer = memoria("serve", "--port", "0", MODEL_EMBED_NAME=str(tmp_path))
    assert answer.returncode == 2
    assert "config.json" in answer.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--no-such-flag 1", "--no-such-flag"),
        ("--max-model-len none", "max-model-len"),
        ('--dtype "', "quot"),
    ],
)
def test_a_wrong_engine_flag_is_said(tiny_models: dict[str, Path], flags: str, told: str) -> None:
    answer = memoria("serve", "--port", "0", **tiny_environment(tiny_models) | {"VLLM_GEN_ARGS": flags})
    assert answer.returncode == 2
    assert "VLLM_GEN_ARGS" in answer.stderr
    assert told in answer.stderr


def test_a_model_that_can_not_generate_is_said(tiny_models: dict[str, Path]) -> None:
    answer = memoria(
        "serve", "--port", "0", **tiny_environment(tiny_models) | {"MODEL_GEN_NAME": "all-MiniLM-L6-v2"}
    )
    assert answer.returncode == 2
    assert "all-MiniLM-L6-v2" in answer.stderr


def test_a_misspelled_name_in_dotenv_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("EMBED_BACKENDS=vllm-http\nPORT=nine\n")
    answer = memoria("serve", folder=tmp_path)
    assert answer.returncode == 2
    assert "PORT is 'nine'" in answer.stderr
