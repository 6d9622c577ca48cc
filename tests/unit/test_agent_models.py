"""The list of models, as OpenAI's, Anthropic's and Codex' clients read it."""

from openai.types import Model as OpenAIModel

from domain.openai.agent_models import agent_model_list
from domain.openai.models import Model
from tests.unit.sdks import anthropic

# Codex ignores an entry that lacks one of these (ModelInfo of Codex CLI 0.171).
CODEX = {
    "slug", "display_name", "supported_reasoning_levels", "shell_type", "visibility", "supported_in_api",
    "priority", "support_verbosity", "truncation_policy", "experimental_supported_tools", "base_instructions",
}  # fmt: skip


async def test_the_list_has_all_forms(api):
    listed = (await api.http.get("/v1/models")).json()
    assert (listed["object"], listed["has_more"]) == ("list", False)
    assert (listed["first_id"], listed["last_id"]) == (listed["data"][0]["id"], listed["data"][-1]["id"])
    for model in listed["data"]:
        assert (model["object"], model["type"], model["owned_by"]) == ("model", "model", "vllm")
        assert model["display_name"] == model["id"]
        assert model["created_at"].endswith("Z")


async def test_codex_finds_the_generation_models_with_all_that_it_needs(api):
    entries = (await api.http.get("/v1/models")).json()["models"]
    assert "fake-write" in [entry["slug"] for entry in entries]
    assert "fake-embed" not in [entry["slug"] for entry in entries]
    for entry in entries:
        assert set(entry) >= CODEX
        assert entry["input_modalities"] == ["text"]
        assert entry["context_window"] == api.writer.max_model_len


def test_an_empty_list_and_an_unknown_context():
    assert agent_model_list([], []).first_id is None
    (entry,) = agent_model_list([], [Model(id="m", created=0)]).models
    assert not entry.context_window


async def test_both_sdks_list_the_models(api):
    listed = await api.http.get("/v1/models")

    for model in listed.json()["data"]:
        OpenAIModel.model_validate(model)
        anthropic.types.ModelInfo.model_validate(model)
