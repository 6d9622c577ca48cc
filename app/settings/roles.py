"""Settings of one role. `{prefix}`, `{noun}` and `{port}` are columns of `domain.roles.ROLES`."""

from typing import Annotated

import msgspec

from app.settings import parsers
from app.settings.groups import BACK_PRESSURE, BACKENDS, EMBEDDINGS, MEMORY, MODELS
from app.settings.values import AUTO, HTTP, INPROCESS, OFF
from domain.load import Bounds
from domain.memory_plan import GpuBudget
from domain.roles import Role


class RoleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a role: its model, where its engine runs, and its resources."""

    model: Annotated[
        str | None,
        MODELS.setting(
            "MODEL_{prefix}_NAME",
            "Model for the {noun} engine: a hub name, a local folder, or a packaged model's name. If unset,"
            " {without_model}.",
            parsers.parse_text,
        ),
    ] = None
    aliases: Annotated[
        tuple[str, ...],
        MODELS.setting(
            "MODEL_{prefix}_ALIASES",
            "Additional names under which clients may request the {noun} model, comma-separated.",
            parsers.parse_names,
        ),
    ] = ()
    backend: Annotated[
        str,
        BACKENDS.setting(
            "{prefix}_BACKEND",
            f"Where the {{noun}} engine runs: {INPROCESS}, {HTTP}, a dotted path to a factory, or {OFF} to serve"
            " without it.{backend_note}",
            parsers.parse_backend,
            optional_default=AUTO,
        ),
    ] = INPROCESS
    urls: Annotated[
        tuple[str, ...],
        BACKENDS.setting(
            "VLLM_{prefix}_URL",
            f"Address of the {{noun}} vLLM server, or several separated by commas, for {{prefix}}_BACKEND={HTTP}.",
            parsers.parse_urls,
            default="http://127.0.0.1:{port}",
        ),
    ]
    api_key: Annotated[
        str | None,
        BACKENDS.setting(
            "VLLM_{prefix}_API_KEY",
            f"API key of the {{noun}} vLLM server, for {{prefix}}_BACKEND={HTTP}.",
            parsers.parse_text,
            is_secret=True,
        ),
    ] = None
    args: Annotated[
        str,
        BACKENDS.setting(
            "VLLM_{prefix}_ARGS",
            f"Additional flags for the {{noun}} engine, written as for vllm serve; {INPROCESS} and compose files.",
            str,
        ),
    ] = ""
    gpu_memory: Annotated[
        GpuBudget | None,
        MEMORY.setting(
            "VLLM_{prefix}_GPU_MEMORY",
            f"GPU memory of the {{noun}} engine: a share (0.25) or a size (6GiB); {INPROCESS} only.",
            parsers.parse_gpu_memory,
        ),
    ] = None
    max_model_len: Annotated[
        int | None,
        MEMORY.setting(
            "VLLM_{prefix}_MAX_MODEL_LEN",
            "Context length of the {noun} engine in tokens. If unset, the memory plan decides;"
            f" {INPROCESS} only.",
            parsers.parse_optional_tokens,
        ),
    ] = None
    bounds: Annotated[Bounds, BACK_PRESSURE.settings("{prefix}_", max_running="{max_running}")]
    tokenizer: Annotated[
        str | None,
        EMBEDDINGS.setting(
            "VLLM_{prefix}_TOKENIZER",
            f"Folder or tokenizer.json of the {{noun}} model, for batching over {HTTP}. If unset, looked for.",
            parsers.parse_text,
            roles=(Role.EMBED,),
        ),
    ] = None
