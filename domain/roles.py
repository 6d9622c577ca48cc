"""The roles: what an engine is for, and everything in which roles differ.

A role is a row of `ROLES`. Settings, the memory plan, health, metrics, the status page and the deployment files
are made from the rows, so that a new role is a new row and not a branch in each of them.
"""

import enum
from collections.abc import Mapping
from typing import Literal

import msgspec


class Role(enum.StrEnum):
    """What an engine is for; the value is its key in `/health`, metrics and logs."""

    EMBED = "embed"
    GENERATE = "generate"


class RoleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One row: names, defaults and abilities of a role."""

    role: Role
    prefix: str
    """The part of setting names that stands for the role, such as `EMBED` in `MODEL_EMBED_NAME`."""
    noun: str
    """What precedes `engine`, `model` and `server` in sentences."""
    article: Literal["a", "an"]
    """What precedes `noun`."""
    endpoints: str
    """Where clients use it, for the message about a model that was asked in another endpoint."""
    runner: Literal["generate", "pooling"]
    """vLLM's `--runner`."""
    port: int
    """Default port of a vLLM server in this role."""
    max_running: int
    """Default bound on requests that the engine works on at a time."""
    gpu_share: float
    """Share of the GPU's memory where no plan can be made and no setting says."""
    context_lengths: tuple[int, ...]
    """Context lengths in tokens that the memory plan tries, longest first."""
    gpu_default_model: str
    """Model on the hub that is used on a GPU if the setting names none."""
    cpu_default_model: str
    """Packaged model that is used on the CPU if the setting names none."""

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
    )
}
"""All roles, in the order in which they are shown."""
