"""vLLM's configuration for rerankers, from a model's files and the user's flags; starts no engine."""

from pathlib import Path

import pytest

from domain.errors import ConfigurationError
from domain.roles import ROLES, Role
from tests.processes import ENGINE_FLAGS
from tests.tiny_rerankers import make_cross_encoder, make_qwen3_reranker

pytestmark = pytest.mark.integration

POOLING = '[{"type": "sentence_transformers.models.Pooling"}]'


@pytest.fixture
def qwen3(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    return make_qwen3_reranker(tmp_path / "tiny-qwen3", tiny_models["tiny-gen"])


def setup(folder: Path, flags: str = "", role: Role = Role.RERANK):
    from adapters.vllm.inprocess.engine_args import default_flags, engine_setup, prepare_environment

    prepare_environment(log_level="error", offline=True)
    return engine_setup(
        role=role,
        model=str(folder),
        served_name=folder.name,
        defaults=default_flags(on_gpu=False, plan=None),
        flags=f"{ENGINE_FLAGS} {flags}",
        setting=f"VLLM_{ROLES[role].prefix}_ARGS",
    )


def test_overrides_of_the_user_leave_the_others_in_place(qwen3: Path) -> None:
    for flags in (
        """--hf-overrides '{"classifier_from_token": ["a", "b"]}'""",
        ("""--hf-overrides.classifier_from_token '["a", "b"]'"""),
    ):
        config = setup(qwen3, flags).config.model_config
        assert config.architecture == "Qwen3ForSequenceClassification"
        assert config.hf_config.classifier_from_token == ["a", "b"]


def test_a_template_of_the_user_wins(qwen3: Path) -> None:
    assert "<Instruct>" in (setup(qwen3).chat.chat_template or "")
    mine = qwen3 / "mine.jinja"
    mine.write_text("{{ messages }}")
    assert setup(qwen3, f"--chat-template {mine}").chat.chat_template == "{{ messages }}"


@pytest.mark.parametrize("role", [Role.RERANK, Role.GENERATE])
def test_a_missing_template_is_reported(qwen3: Path, role: Role) -> None:
    with pytest.raises(ConfigurationError, match=rf"VLLM_{ROLES[role].prefix}_ARGS: --chat-template: .*nowhere"):
        setup(qwen3, "--chat-template /nowhere.jinja", role)


def test_an_embedding_model_of_the_same_architecture_is_refused(qwen3: Path) -> None:
    """Its scores would mean nothing."""
    (qwen3 / "modules.json").write_text(POOLING.replace("Pooling", "LogitScore"))
    setup(qwen3)
    (qwen3 / "modules.json").write_text(POOLING)
    with pytest.raises(ConfigurationError, match="is no reranking model"):
        setup(qwen3)


@pytest.mark.parametrize("content", [b"{broken", b"[1]", b"\xff"])
def test_a_broken_config_is_reported(tmp_path: Path, content: bytes) -> None:
    folder = make_cross_encoder(tmp_path / "broken")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match="'broken'"):
        setup(folder)


def test_a_classifier_with_several_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="3 labels"):
        setup(make_cross_encoder(tmp_path / "sentiment", labels=3))
