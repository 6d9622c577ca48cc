"""Creates vLLM's configuration from settings, validated by vLLM's parser before anything starts."""

import atexit
import functools
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from adapters.vllm.dialect.memory_flags import flag_name, plan_flags
from adapters.vllm.dialect.rerankers import reranker_overrides, reranker_template
from adapters.vllm.inprocess.chat_options import (
    ChatOptions,
    add_flags,
    chat_options,
    config_of,
    is_embedding_model,
    score_options,
)
from adapters.vllm.inprocess.owner import lower_engine_priority, own_engines
from domain.errors import ConfigurationError
from domain.matryoshka import is_matryoshka
from domain.memory_plan import EnginePlan
from domain.roles import ROLES, Role
from domain.units import GIB

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

CPU_KV_CACHE_BYTES = GIB
"""KV cache without a plan: by default vLLM's CPU engine takes most of the machine's memory for it."""

SCHEDULING_FLAGS = ["--scheduling-policy", "priority"]
"""Let the engine begin with the most urgent class of service, and take memory from the least urgent one."""


def prepare_environment(*, log_level: str, offline: bool, on_gpu: bool = False) -> None:
    """Set the environment variables that vLLM reads on import; variables set by the user are kept.

    Args:
        log_level: level of vLLM's log.
        offline: whether to disable access to the model hub (all models are local folders).
        on_gpu: whether engines run on a GPU.
    """
    own_engines()
    defaults = {
        "VLLM_LOGGING_LEVEL": log_level.upper(),
        "VLLM_NO_USAGE_STATS": "1",
        # Forking a process with threads, such as this one, is not safe.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "TOKENIZERS_PARALLELISM": "false",
        # Seconds that vLLM waits for workers, which never end by themselves on the CPU.
        "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "1",
    }
    if "VLLM_RPC_BASE_PATH" not in os.environ:
        defaults["VLLM_RPC_BASE_PATH"] = _socket_folder()
    if sys.platform == "linux":
        # PyTorch's process groups listen on the address of the host name, which may be public, and do not
        # authenticate connections. All engine processes here run on this machine.
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    if log_level != "debug":
        # Output of PyTorch and tqdm in every engine process, which is useful for debugging only.
        defaults |= {
            "PYTHONWARNINGS": "ignore::FutureWarning,ignore::UserWarning:multiprocessing.resource_tracker",
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            "TORCH_LOGS": "-all",
            "TQDM_DISABLE": "1",
        }
    if offline:
        defaults["HF_HUB_OFFLINE"] = "1"
    if not on_gpu:
        lower_engine_priority()
        defaults |= _cpu_threads()
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


@functools.cache
def _socket_folder() -> str:
    """A private folder for the sockets between the service and its engines.

    By default vLLM puts them in the system's temporary folder, where those of a killed engine remain. This folder
    is removed when the service ends.
    """
    folder = tempfile.mkdtemp(prefix="memoria-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _cpu_threads() -> dict[str, str]:
    """OpenMP settings for engines on the CPU, which each engine process reads when it loads PyTorch.

    The number of threads is vLLM's default, which leaves one core for everything else. They are not bound to
    cores: vLLM would bind those of all engines to the same ones. They sleep instead of spinning while they wait,
    because they may be waiting for another engine.
    """
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def trace_flags(endpoint: str | None) -> list[str]:
    """Flags that enable tracing in an engine.

    Args:
        endpoint: OTLP endpoint for the spans; None disables tracing.
    """
    return [] if endpoint is None else ["--otlp-traces-endpoint", endpoint]


def default_flags(
    *, on_gpu: bool, plan: EnginePlan | None = None, gpu_share: float | None = None, context: int | None = None
) -> list[str]:
    """Flags that differ from vLLM's defaults because several engines share the machine.

    Args:
        on_gpu: whether there is an NVIDIA GPU.
        plan: the engine's memory; None if no plan can be made.
        gpu_share: without a plan, the engine's share of the GPU, 0 … 1; None for vLLM's default.
        context: without a plan, the context length in tokens; None for the model's.
    """
    if plan is not None:
        flags = plan_flags(plan)
    else:
        without = {"--gpu-memory-utilization": gpu_share if on_gpu else None, "--max-model-len": context}
        flags = {name: value for name, value in without.items() if value is not None}
    if not on_gpu:
        # Without bf16 instructions float32 is several times faster; compilation takes minutes on few cores.
        flags = {
            "--dtype": "float32",
            "--enforce-eager": "",
            "--kv-cache-memory-bytes": CPU_KV_CACHE_BYTES,
        } | flags
    return [str(word) for pair in flags.items() for word in pair if word != ""]


class EngineSetup(NamedTuple):
    """Configuration of an engine and its chat."""

    config: "VllmConfig"
    chat: ChatOptions


def engine_setup(
    *, role: Role, model: str, served_name: str, defaults: list[str], flags: str, setting: str
) -> EngineSetup:
    """vLLM's configuration for one engine.

    Args:
        role: determines vLLM's runner.
        model: local folder or hub name.
        served_name: the model's name for clients.
        defaults: flags that the user's own override.
        flags: the user's flags of `vllm serve`, as one string, including its flags for chat.
        setting: the variable that carries `flags`, for error messages.

    Raises:
        ConfigurationError: a flag is unknown or invalid, or the model does not fit the role.

    Source: vllm.engine.arg_utils.AsyncEngineArgs (0.32.0).
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise ConfigurationError(f"{setting}: {message}. Flags are spelled as for `vllm serve`.")

    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise ConfigurationError(f"{setting}: {error}. Check the quotation marks.") from error
    parser = AsyncEngineArgs.add_cli_args(Parser(prog=setting, add_help=False))
    add_flags(parser)
    own = ["--model", model, "--served-model-name", served_name, "--runner", ROLES[role].runner]
    model_config: Mapping[str, Any] = {}
    overrides: dict[str, Any] = {}
    try:
        if role is Role.EMBED and is_matryoshka(model, served_name):
            overrides = {"is_matryoshka": True}
        elif role is Role.RERANK:
            model_config = config_of(model)
            overrides = reranker_overrides(model_config, is_sentence_encoder=is_embedding_model(model))
        arguments = parser.parse_args([*_drop_overridden(defaults, words), *words, *own])
        # Those of the user may be about something else.
        arguments.hf_overrides = overrides | (arguments.hf_overrides or {})
        config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"vLLM refuses the {role} model '{served_name}': {_short_message(error)}"
        ) from error
    if role is Role.RERANK:
        _check_reranker(config.model_config, served_name)
        return EngineSetup(
            config, score_options(arguments, reranker_template(model_config, model, served_name), setting)
        )
    chat = chat_options(arguments, config.model_config, setting) if ROLES[role].generates else ChatOptions()
    if chat.reasoning_parser is not None:
        # The engine's processes need it too, to apply constraints only after the reasoning.
        config.structured_outputs_config.reasoning_parser = chat.reasoning_parser
    structured_outputs = config.structured_outputs_config
    if structured_outputs.backend == "auto":
        # An engine keeps using the library that its first constrained request selects, and "auto" selects it by
        # the features of that request: after one schema with `multipleOf`, tool calls could no longer be
        # constrained. Only xgrammar supports structural tags for tool calls.
        structured_outputs.backend = "xgrammar"
    # Small models that may generate whitespace anywhere in JSON generate it endlessly.
    structured_outputs.disable_any_whitespace = True
    return EngineSetup(config, chat)


def _check_reranker(model: "ModelConfig", name: str) -> None:
    """Raise ConfigurationError unless a model gives one score to a query and a document."""
    variable = f"MODEL_{ROLES[Role.RERANK].prefix}_NAME"
    if model.score_type != "cross-encoder":
        raise ConfigurationError(
            f"{variable}: '{name}' is no reranking model. Set it to a cross-encoder such as"
            " BAAI/bge-reranker-v2-m3 or to Qwen/Qwen3-Reranker-0.6B, or leave it unset: then the embedding model"
            " scores documents."
        )
    labels = getattr(model.hf_config, "num_labels", 1)
    if labels != 1:
        raise ConfigurationError(
            f"{variable}: '{name}' is a classifier with {labels} labels, and a reranking model has one. Set it to"
            " a reranking model such as BAAI/bge-reranker-v2-m3."
        )


def _drop_overridden(defaults: list[str], words: list[str]) -> list[str]:
    """The default flags that the user does not override; vLLM warns about duplicate flags."""
    given = {flag_name(word).replace("--no-", "--") for word in words}
    kept: list[str] = []
    keep = True
    for word in defaults:
        if word.startswith("--"):
            keep = word not in given
        if keep:
            kept.append(word)
    return kept


def _short_message(error: Exception) -> str:
    """The message of an error of vLLM or pydantic on one line, without the echoed input."""
    first = str(error).strip().split("[type=")[0]
    return " ".join(first.split())[:600] or type(error).__name__
