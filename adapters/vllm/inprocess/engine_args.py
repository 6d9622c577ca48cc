"""From settings to vLLM's own configuration, checked by vLLM's own parser before anything starts."""

import atexit
import functools
import os
import shlex
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from adapters.vllm.dialect.memory_flags import flag_name, plan_flags
from adapters.vllm.inprocess.chat_options import ChatOptions, add_flags, chat_options
from adapters.vllm.inprocess.owner import let_engines_give_way, own_engines
from domain.errors import ConfigurationError
from domain.matryoshka import is_matryoshka
from domain.memory_plan import EnginePlan
from domain.roles import ROLES, Role
from domain.units import GIB

if TYPE_CHECKING:
    from vllm.config import VllmConfig

CPU_KV_CACHE_BYTES = GIB
"""Where no plan says otherwise: without a limit vLLM's CPU engine takes most of the machine for its KV cache."""


def prepare_environment(*, log_level: str, offline: bool, on_gpu: bool = False) -> None:
    """Set what vLLM reads from the environment while it is imported. What the user has set stays.

    Args:
        log_level: level of vLLM's own log.
        offline: whether no model hub shall be asked (all models are local folders).
        on_gpu: whether engines compute on a GPU.
    """
    own_engines()
    defaults = {
        "VLLM_LOGGING_LEVEL": log_level.upper(),
        "VLLM_NO_USAGE_STATS": "1",
        # Forking a process that has threads, as this one has, is not safe.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "TOKENIZERS_PARALLELISM": "false",
        # vLLM waits this long for workers that, on the CPU, never end by themselves (seconds).
        "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "1",
    }
    if "VLLM_RPC_BASE_PATH" not in os.environ:
        defaults["VLLM_RPC_BASE_PATH"] = _socket_folder()
    if sys.platform == "linux":
        # PyTorch's process groups listen where the host's name points, which may be the network, and do not
        # authenticate connections. Engines here have all their processes on this machine.
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    if log_level != "debug":
        # Said by PyTorch and tqdm in every process of an engine, and of no use to anybody who is not debugging.
        defaults |= {
            "PYTHONWARNINGS": "ignore::FutureWarning,ignore::UserWarning:multiprocessing.resource_tracker",
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            "TORCH_LOGS": "-all",
            "TQDM_DISABLE": "1",
        }
    if offline:
        defaults["HF_HUB_OFFLINE"] = "1"
    if not on_gpu:
        let_engines_give_way()
        defaults |= _cpu_threads()
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


@functools.cache
def _socket_folder() -> str:
    """A folder for the sockets between the service and its engines, which no other user can enter.

    vLLM puts them where all temporary files are, and those of an engine that was killed stay there for good. This
    folder goes with the service.
    """
    folder = tempfile.mkdtemp(prefix="memoria-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _cpu_threads() -> dict[str, str]:
    """OpenMP's settings for engines on the CPU; read once, by each engine process when it loads PyTorch.

    As many threads as vLLM would take, which leaves one core for everything else. They are bound to no core: vLLM
    binds those of all engines to the same ones. And they sleep while they wait, because what they wait for may
    be another engine.
    """
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def trace_flags(endpoint: str | None) -> list[str]:
    """Flags that let an engine make spans.

    Args:
        endpoint: where they are sent; None for no spans.
    """
    return [] if endpoint is None else ["--otlp-traces-endpoint", endpoint]


def default_flags(
    *, on_gpu: bool, plan: EnginePlan | None = None, gpu_share: float | None = None, context: int | None = None
) -> list[str]:
    """Flags that differ from vLLM's defaults because several engines share the machine.

    Args:
        on_gpu: whether there is an NVIDIA GPU.
        plan: the engine's memory; None if no plan can be made.
        gpu_share: without a plan, the engine's share of the card, 0 … 1; None leaves it to vLLM.
        context: without a plan, the context length in tokens; None leaves it to the model.
    """
    if plan is not None:
        flags = plan_flags(plan)
    else:
        without = {"--gpu-memory-utilization": gpu_share if on_gpu else None, "--max-model-len": context}
        flags = {name: value for name, value in without.items() if value is not None}
    if not on_gpu:
        # Without bf16 instructions float32 is several times faster; compiling takes minutes on few cores.
        flags = {
            "--dtype": "float32",
            "--enforce-eager": "",
            "--kv-cache-memory-bytes": CPU_KV_CACHE_BYTES,
        } | flags
    return [str(word) for pair in flags.items() for word in pair if word != ""]


class EngineSetup(NamedTuple):
    """All that is needed to start an engine and to chat with it."""

    config: "VllmConfig"
    chat: ChatOptions


def engine_setup(
    *, role: Role, model: str, served_name: str, defaults: list[str], flags: str, setting: str
) -> EngineSetup:
    """vLLM's configuration for one engine.

    Args:
        role: decides vLLM's runner.
        model: local folder or hub name.
        served_name: the model's name for clients.
        defaults: flags that the user's own override.
        flags: the user's flags, in vLLM's spelling, as one string; those of its web server for chat included.
        setting: the variable that carries `flags`, for error messages.

    Raises:
        ConfigurationError: a flag is unknown or impossible, or the model does not fit the role.

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
        raise ConfigurationError(f"{setting}: {error}. Check its quotes.") from error
    parser = AsyncEngineArgs.add_cli_args(Parser(prog=setting, add_help=False))
    add_flags(parser)
    own = ["--model", model, "--served-model-name", served_name, "--runner", ROLES[role].runner]
    if not ROLES[role].generates and is_matryoshka(model, served_name):
        defaults = [*defaults, "--hf-overrides", '{"is_matryoshka": true}']
    try:
        arguments = parser.parse_args([*_without(defaults, words), *words, *own])
        config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"vLLM refuses the {role} model '{served_name}': {_sentence(error)}") from error
    chat = chat_options(arguments, config.model_config, setting) if ROLES[role].generates else ChatOptions()
    if chat.reasoning_parser is not None:
        # The engine's processes need it as well, to constrain only what comes after the thinking.
        config.structured_outputs_config.reasoning_parser = chat.reasoning_parser
    forms = config.structured_outputs_config
    if forms.backend == "auto":
        # An engine keeps the library that its first constrained request is given, and "auto" chooses by what that
        # request asks for: one schema with `multipleOf`, and no tool call could be constrained any more. Only
        # this library knows the form of tool calls.
        forms.backend = "xgrammar"
    # Small models that may write white space anywhere in JSON write nothing else.
    forms.disable_any_whitespace = True
    return EngineSetup(config, chat)


def _without(defaults: list[str], words: list[str]) -> list[str]:
    """The defaults that the user's own flags leave standing; vLLM warns of flags that are given twice."""
    given = {flag_name(word).replace("--no-", "--") for word in words}
    kept: list[str] = []
    keep = True
    for word in defaults:
        if word.startswith("--"):
            keep = word not in given
        if keep:
            kept.append(word)
    return kept


def _sentence(error: Exception) -> str:
    """What an error of vLLM or pydantic says, on one line, without the input it echoes."""
    first = str(error).strip().split("[type=")[0]
    return " ".join(first.split())[:600] or type(error).__name__
