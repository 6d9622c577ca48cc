"""Roles of engines, and everything in which they differ.

A role is a row of `ROLES`. Settings, the memory plan, health, metrics, the status page and the deployment files
are derived from the rows, so that a new role needs a new row and no branches elsewhere.
"""

import enum
from collections.abc import Mapping
from typing import Literal

import msgspec


class Role(enum.StrEnum):
    """The role of an engine; the value is its key in `/health`, metrics and logs."""

    EMBED = "embed"
    GENERATE = "generate"
    RERANK = "rerank"


class RoleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Names, defaults and capabilities of one role."""

    role: Role
    prefix: str
    """The role's part of setting names, such as `EMBED` in `MODEL_EMBED_NAME`."""
    noun: str
    """Precedes `engine`, `model` and `server` in sentences."""
    article: Literal["a", "an"]
    """Precedes `noun`."""
    endpoints: str
    """The role's endpoints, for the error about a model that was used with another endpoint."""
    runner: Literal["generate", "pooling"]
    """vLLM's `--runner`."""
    port: int
    """Default port of a vLLM server in this role."""
    max_running: int
    """Default limit on concurrent requests of the engine."""
    gpu_share: float
    """Default share of the GPU's memory if no plan can be made and no setting is given; less if all shares exceed
    the GPU together."""
    context_lengths: tuple[int, ...]
    """Context lengths in tokens that the memory plan tries, longest first."""
    gpu_default_model: str | None
    """Default model on a GPU, from the hub; None for an optional role."""
    cpu_default_model: str | None
    """Default model on the CPU, packaged; None for an optional role."""

    without_model: str = "chosen for this machine"
    """What happens if no model is named, for the documentation."""
    backend_note: str = ""
    """Added to the description of the setting of the backend."""

    @property
    def is_optional(self) -> bool:
        """Whether the role is off unless its model is named, because there is no default."""
        return self.cpu_default_model is None

    @property
    def generates(self) -> bool:
        """Whether the engine generates text: it keeps its output layer, and more KV cache makes it faster."""
        return self.runner == "generate"


ROLES: Mapping[Role, RoleInfo] = {
    info.role: info
    for info in (
        RoleInfo(
            role=Role.EMBED,
            prefix="EMBED",
            noun="embedding",
            article="an",
            endpoints="v1/embeddings",
            runner="pooling",
            port=8100,
            max_running=512,
            gpu_share=0.25,
            context_lengths=(8192, 4096, 2048, 1024, 512),
            gpu_default_model="Qwen/Qwen3-Embedding-0.6B",
            cpu_default_model="all-MiniLM-L6-v2",
        ),
        RoleInfo(
            role=Role.GENERATE,
            prefix="GEN",
            noun="generation",
            article="a",
            endpoints="v1/chat/completions or v1/completions",
            runner="generate",
            port=8101,
            max_running=256,
            gpu_share=0.65,
            context_lengths=(32768, 16384, 8192, 4096, 2048),
            gpu_default_model="Qwen/Qwen3-8B-FP8",
            cpu_default_model="SmolLM2-135M-Instruct",
        ),
        RoleInfo(
            role=Role.RERANK,
            prefix="RERANK",
            noun="reranking",
            article="a",
            endpoints="v1/rerank or v1/score",
            runner="pooling",
            port=8102,
            max_running=512,
            gpu_share=0.15,
            context_lengths=(8192, 4096, 2048, 1024, 512),
            gpu_default_model=None,
            cpu_default_model=None,
            without_model="the embedding model scores documents",
            backend_note=" With auto it is off unless MODEL_RERANK_NAME is set.",
        ),
    )
}
"""All roles, in display order."""
DEFAULT_ROLES = tuple(role for role, info in ROLES.items() if not info.is_optional)
"""The roles that are on unless a setting switches them off."""
