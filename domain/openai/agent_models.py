"""Model list entries with the additional fields that agents read.

Source: the catalog of Codex CLI 0.171 (`ModelInfo`), which ignores an entry that lacks one of its required fields,
and Anthropic's `ModelInfo`, whose page fields Claude Code reads. OpenCode takes models that are owned by "vllm".
"""

from datetime import UTC, datetime
from typing import Literal

import msgspec

from domain.openai.models import Model

TRUNCATED_OUTPUT_TOKENS = 10_000
"""Tokens to which Codex shortens the output of a command."""
INSTRUCTIONS = """\
You are a coding agent in a terminal. Use the tools you are given to read, change and run files in this folder.
Take one step at a time, check its result, and go on until the task is done. Then say briefly what you did.
"""


class TruncationPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How Codex shortens the output of a command."""

    mode: Literal["tokens"] = "tokens"
    limit: int = TRUNCATED_OUTPUT_TOKENS


class CodexModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A generation model in Codex' catalog."""

    slug: str
    display_name: str
    supported_reasoning_levels: list[str] = []
    shell_type: str = "default"
    visibility: str = "list"
    supported_in_api: bool = True
    priority: int = 1
    support_verbosity: bool = False
    truncation_policy: TruncationPolicy = TruncationPolicy()
    experimental_supported_tools: list[str] = []
    base_instructions: str = INSTRUCTIONS
    input_modalities: tuple[str, ...] = ("text",)
    context_window: int | msgspec.UnsetType = msgspec.UNSET
    max_context_window: int | msgspec.UnsetType = msgspec.UNSET


class AgentModel(Model, frozen=True, kw_only=True):
    """A model with Anthropic's fields too."""

    type: Literal["model"] = "model"
    display_name: str
    created_at: str
    """RFC 3339."""
    lifecycle: Literal["active"] = "active"


class AgentModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All served models, as OpenAI, Anthropic and Codex list them."""

    object: Literal["list"] = "list"
    data: list[AgentModel]
    first_id: str | None
    last_id: str | None
    has_more: bool = False
    models: list[CodexModel]
    """The generation models."""


def agent_model(model: Model) -> AgentModel:
    """A model with Anthropic's fields."""
    created = datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return AgentModel(**msgspec.structs.asdict(model), display_name=model.id, created_at=created)


def agent_model_list(models: list[Model], generation: list[Model]) -> AgentModelList:
    """The list of models.

    Args:
        models: all models.
        generation: those of them that agents can use.
    """
    return AgentModelList(
        data=[agent_model(model) for model in models],
        first_id=models[0].id if models else None,
        last_id=models[-1].id if models else None,
        models=[_codex_model(model) for model in generation],
    )


def _codex_model(model: Model) -> CodexModel:
    window = model.max_model_len if model.max_model_len else msgspec.UNSET
    return CodexModel(slug=model.id, display_name=model.id, context_window=window, max_context_window=window)
