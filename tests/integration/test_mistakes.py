"""Configuration mistakes are reported in a sentence before engines start, without a traceback."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.processes import MEMORIA, ROOT, tiny_environment

pytestmark = pytest.mark.integration


def memoria(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    result = subprocess.run(
        [str(MEMORIA), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        check=False,
    )
    assert "Traceback" not in result.stderr
    return result


def test_all_invalid_settings_are_reported_at_once() -> None:
    result = memoria("serve", PORT="eighty", EMBED_BACKEND="vlm-http", VLLM_GEN_URL="localhost:8101")
    assert result.returncode == 2
    for name in ("PORT", "EMBED_BACKEND", "VLLM_GEN_URL", "did you mean vllm-http"):
        assert name in result.stderr


def test_a_port_in_use_is_reported_before_engines_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = memoria("serve", PORT=port)
    assert result.returncode == 2
    assert port in result.stderr
    assert "loading" not in result.stderr


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/no/such/folder", "there is no folder"),
        ("SmolLM2-135M", "Did you mean 'SmolLM2-135M-Instruct'"),
        ("nobody/nothing-of-this-name", "can't be reached"),
    ],
)
def test_a_wrong_model_is_reported_before_engines_start(name: str, expected: str) -> None:
    result = memoria("serve", "--port", "0", MODEL_GEN_NAME=name)
    assert result.returncode == 2
    assert "MODEL_GEN_NAME" in result.stderr
    assert expected in result.stderr


def test_a_folder_without_a_model_is_reported(tmp_path: Path) -> None:
    result = memoria("serve", "--port", "0", MODEL_EMBED_NAME=str(tmp_path))
    assert result.returncode == 2
    assert "config.json" in result.stderr


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--no-such-flag 1", "--no-such-flag"),
        ("--max-model-len none", "max-model-len"),
        ('--dtype "', "quot"),
    ],
)
def test_a_wrong_engine_flag_is_reported(tiny_models: dict[str, Path], flags: str, expected: str) -> None:
    result = memoria("serve", "--port", "0", **tiny_environment(tiny_models) | {"VLLM_GEN_ARGS": flags})
    assert result.returncode == 2
    assert "VLLM_GEN_ARGS" in result.stderr
    assert expected in result.stderr


def test_a_model_that_can_not_generate_is_reported(tiny_models: dict[str, Path]) -> None:
    result = memoria(
        "serve", "--port", "0", **tiny_environment(tiny_models) | {"MODEL_GEN_NAME": "all-MiniLM-L6-v2"}
    )
    assert result.returncode == 2
    assert "all-MiniLM-L6-v2" in result.stderr


def test_an_invalid_setting_in_dotenv_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("EMBED_BACKENDS=vllm-http\nPORT=nine\n")
    result = memoria("serve", folder=tmp_path)
    assert result.returncode == 2
    assert "PORT is 'nine'" in result.stderr
