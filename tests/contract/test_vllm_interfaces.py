"""Checks every interface of vLLM that the service uses, for upgrades of vLLM.

vLLM does not guarantee these interfaces. A test names each one that changed, before any engine starts. The first
tests need no vLLM and keep the lists complete: an import in `adapters/` that is not listed fails.
"""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from adapters.vllm.dialect import memory_flags as vllm_flags
from tests.deployment import ROOT, compose

ADAPTERS = ROOT / "adapters"
INPROCESS = ADAPTERS / "vllm" / "inprocess"
PROTOCOL = "vllm.entrypoints.openai.chat_completion.protocol"

IMPORTS: dict[str, set[str]] = {
    "vllm.config": {"ModelConfig", "VllmConfig"},
    "vllm.distributed.ec_transfer.ec_connector.metrics": {"ECConnectorProm"},
    "vllm.distributed.kv_transfer.kv_connector.v1.metrics": {"KVConnectorProm"},
    "vllm.engine.arg_utils": {"AsyncEngineArgs", "get_kwargs"},
    "vllm.entrypoints.launchers.cli_args": {"BaseFrontendArgs"},
    PROTOCOL: {
        "ChatCompletionNamedToolChoiceParam",
        "ChatCompletionRequest",
        "ChatCompletionToolsParam",
    },
    "vllm.entrypoints.pooling.scoring.io_processor": {"CrossEncoderIOProcessor"},
    "vllm.entrypoints.pooling.scoring.utils": {"truncate_text_to_tokens"},
    "vllm.entrypoints.pooling.typing": {"PoolingEngineInput", "ScoringRenderParams"},
    "vllm.entrypoints.serve.engine.protocol": {"ErrorResponse"},
    "vllm.entrypoints.serve.utils.api_utils": {"get_max_tokens"},
    "vllm.envs": {"enable_envs_cache"},
    "vllm.exceptions": {"GracefulHTTPError", "VLLMClientError"},
    "vllm.outputs": {"CompletionOutput", "PoolingOutput", "RequestOutput", "ScoringOutput"},
    "vllm.platforms": {"current_platform"},
    "vllm.pooling_params": {"PoolingParams"},
    "vllm.reasoning": {"ReasoningParserManager"},
    "vllm.renderers": {"BaseRenderer", "TokenizeParams"},
    "vllm.renderers.chat_utils": {"ChatTemplateConfig", "load_chat_template", "make_tool_call_id"},
    "vllm.renderers.inputs.preprocess": {"parse_model_prompt"},
    "vllm.renderers.online_renderer": {"OnlineRenderer"},
    "vllm.sampling_params": {"RequestOutputKind", "SamplingParams", "StructuredOutputsParams"},
    "vllm.tool_parsers": {"ToolParserManager"},
    "vllm.usage.usage_lib": {"UsageContext"},
    "vllm.utils.argparse_utils": {"FlexibleArgumentParser"},
    "vllm.utils.async_utils": {"make_async"},
    "vllm.v1.engine.async_llm": {"AsyncLLM"},
    "vllm.v1.engine.exceptions": {"EngineDeadError", "EngineGenerateError"},
    "vllm.v1.executor": {"Executor"},
    "vllm.v1.executor.multiproc_executor": {"MultiprocExecutor"},
    "vllm.v1.executor.uniproc_executor": {"UniProcExecutor"},
    "vllm.v1.metrics.loggers": {"PrometheusStatLogger"},
    "vllm.v1.metrics.perf": {"PerfMetricsProm"},
    "vllm.v1.metrics.stats": {"IterationStats", "SchedulerStats"},
    "vllm.v1.spec_decode.metrics": {"SpecDecodingProm"},
}
"""Everything that `adapters/` imports from vLLM."""

CALLS: dict[str, list[str]] = {
    "vllm.v1.engine.async_llm.AsyncLLM": [
        "vllm_config", "executor_class", "log_stats", "log_requests", "stat_loggers",
    ],
    "vllm.v1.engine.async_llm.AsyncLLM.add_request": [
        "request_id", "prompt", "params", "trace_headers", "priority",
    ],
    "vllm.v1.engine.async_llm.AsyncLLM.generate": [
        "prompt", "sampling_params", "request_id", "reasoning_ended", "reasoning_parser_kwargs", "trace_headers",
        "priority",
    ],
    "vllm.v1.engine.async_llm.AsyncLLM.abort": ["request_id", "internal"],
    "vllm.v1.engine.async_llm.AsyncLLM.shutdown": ["timeout"],
    "vllm.v1.engine.async_llm.AsyncLLM.check_health": [],
    "vllm.v1.engine.async_llm.AsyncLLM.get_num_unfinished_requests": [],
    "vllm.v1.engine.async_llm.AsyncLLM.get_tokenizer": [],
    "vllm.v1.engine.output_processor.OutputProcessor.propagate_error": ["e"],
    "vllm.v1.engine.detokenizer.IncrementalDetokenizer.num_output_tokens": [],
    "vllm.v1.executor.Executor.get_class": ["vllm_config"],
    "vllm.v1.metrics.loggers.StatLoggerBase.record": [],
    "vllm.v1.metrics.loggers.StatLoggerBase.log_engine_initialized": [],
    "vllm.engine.arg_utils.AsyncEngineArgs.add_cli_args": ["parser"],
    "vllm.engine.arg_utils.AsyncEngineArgs.from_cli_args": ["args"],
    "vllm.engine.arg_utils.AsyncEngineArgs.create_engine_config": ["usage_context"],
    "vllm.config.ModelConfig.get_diff_sampling_param": [],
    "vllm.renderers.BaseRenderer.render_cmpl": ["prompts", "tok_params"],
    "vllm.renderers.BaseRenderer.render_cmpl_async": ["prompts", "tok_params"],
    "vllm.renderers.BaseRenderer.render_chat_async": [
        "conversations", "chat_params", "tok_params", "skip_mm_cache",
    ],
    "vllm.renderers.BaseRenderer.validate_token_ids": ["token_ids", "parameter"],
    "vllm.renderers.BaseRenderer.get_tokenizer": [],
    "vllm.renderers.inputs.preprocess.parse_model_prompt": ["model_config", "prompt"],
    "vllm.renderers.chat_utils.load_chat_template": ["chat_template"],
    "vllm.renderers.online_renderer.OnlineRenderer": [
        "model_config", "renderer", "request_logger", "chat_template", "chat_template_content_format",
        "enable_auto_tools", "tool_parser", "reasoning_parser", "tool_strict_level",
        "default_chat_template_kwargs",
    ],
    "vllm.renderers.online_renderer.OnlineRenderer.render_chat": ["request"],
    "vllm.renderers.online_renderer.OnlineRenderer.warmup": [],
    "vllm.renderers.online_renderer.OnlineRenderer.effective_chat_template_kwargs": ["request"],
    f"{PROTOCOL}.ChatCompletionRequest.build_chat_params": [
        "default_template", "default_template_content_format",
    ],
    f"{PROTOCOL}.ChatCompletionRequest.to_sampling_params": [
        "max_tokens", "default_sampling_params",
    ],
    f"{PROTOCOL}.ChatCompletionRequest.resolve_reasoning_ended": [],
    "vllm.entrypoints.serve.utils.api_utils.get_max_tokens": [],
    "vllm.parser.abstract_parser.Parser.parse": ["enable_auto_tools", "model_output_token_ids"],
    "vllm.parser.abstract_parser.Parser.parse_delta": ["finished"],
    "vllm.parser.abstract_parser.Parser.set_prompt_token_ids": [],
    "vllm.parser.abstract_parser.Parser.count_reasoning_tokens": ["token_ids"],
    "vllm.sampling_params.SamplingParams.from_optional": [
        "logprobs", "prompt_logprobs", "output_kind", "skip_clone", "max_tokens", "stop_token_ids",
        "structured_outputs",
    ],
    "vllm.pooling_params.PoolingParams": ["task", "dimensions", "use_activation"],
    "vllm.entrypoints.pooling.scoring.io_processor.CrossEncoderIOProcessor.render": ["render_params"],
    "vllm.entrypoints.pooling.scoring.utils.truncate_text_to_tokens": ["text", "tokenizer", "max_tokens"],
    "vllm.outputs.ScoringOutput.from_base": [],
    "vllm.renderers.TokenizeParams.with_kwargs": [],
    "vllm.renderers.chat_utils.ChatTemplateConfig": ["chat_template"],
    "vllm.utils.async_utils.make_async": ["executor"],
    "vllm.renderers.TokenizeParams": ["max_total_tokens", "max_output_tokens", "add_special_tokens"],
    "vllm.tool_parsers.ToolParserManager.import_tool_parser": [],
    "vllm.tool_parsers.ToolParserManager.list_registered": [],
    "vllm.reasoning.ReasoningParserManager.list_registered": [],
}  # fmt: skip
"""Callables → parameters that are passed by name, or whose order matters."""

FIELDS: dict[str, list[str]] = {
    "vllm.config.VllmConfig": [
        "model_config", "parallel_config", "structured_outputs_config", "observability_config",
    ],
    "vllm.config.ParallelConfig": ["world_size"],
    "vllm.config.ObservabilityConfig": ["otlp_traces_endpoint"],
    "vllm.config.StructuredOutputsConfig": ["backend", "disable_any_whitespace", "reasoning_parser"],
    "vllm.config.ModelConfig": ["max_model_len", "tokenizer", "tokenizer_revision", "hf_config"],
    "vllm.outputs.CompletionOutput": ["index", "text", "token_ids", "logprobs", "finish_reason", "stop_reason"],
    "vllm.renderers.TokenizeParams": [
        "max_total_tokens", "max_output_tokens", "add_special_tokens", "needs_detokenization",
        "truncate_prompt_tokens",
    ],
    "vllm.sampling_params.StructuredOutputsParams": ["json", "structural_tag"],
}  # fmt: skip
"""Fields that are read or written."""

ATTRIBUTES: dict[str, list[str]] = {
    "vllm.v1.engine.async_llm.AsyncLLM": ["output_handler", "output_processor", "renderer"],
    "vllm.renderers.online_renderer.OnlineRenderer": [
        "parser", "chat_template", "chat_template_content_format", "default_chat_template_kwargs",
    ],
    "vllm.v1.engine.output_processor.OutputProcessor": ["request_states"],
    "vllm.v1.engine.output_processor.RequestState": ["detokenizer"],
    "vllm.outputs.RequestOutput": ["outputs", "prompt_logprobs", "prompt_token_ids", "num_cached_tokens"],
}  # fmt: skip
"""Attributes that the constructor sets."""

KEYS: dict[str, list[str]] = {
    "vllm.entrypoints.pooling.typing.ScoringRenderParams": [
        "data_1", "data_2", "chat_template", "max_tokens_per_query", "max_tokens_per_doc", "tok_params",
        "prompt_extras", "skip_mm_cache", "params", "lora_requests", "priorities",
    ],
    "vllm.entrypoints.pooling.typing.PoolingEngineInput": ["prompts", "params"],
}  # fmt: skip
"""Keys of typed dictionaries that are read or written."""

ROUTES = {
    "embed": {"/health", "/v1/models", "/v1/embeddings", "/tokenize", "/detokenize"},
    "generate": {
        "/health", "/v1/models", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize",
    },
    "rerank": {"/health", "/v1/models", "/score", "/tokenize", "/detokenize"},
}  # fmt: skip
"""Routes that `adapters/vllm/http` requests from a server."""

# A gateway is installed without vLLM on purpose; the lists are still checked against the adapters there.
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here")


@pytest.fixture(scope="module", autouse=True)
def environment() -> None:
    """Prepare the environment, which vLLM reads on import, as for the in-process engines of this package."""
    if importlib.util.find_spec("vllm") is not None:
        from adapters.vllm.inprocess.engine_args import prepare_environment

        prepare_environment(log_level="error", offline=True)


def resolve(path: str) -> Any:
    """The object at a dotted path; its module is the longest importable prefix."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            resolved: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            resolved = getattr(resolved, part)
        return resolved
    raise ModuleNotFoundError(path)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vllm":
            yield from ((node.module, name.name) for name in node.names)
        if isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names if name.name.split(".")[0] == "vllm")


def test_the_list_has_all_imports():
    used = {pair for path in sorted(ADAPTERS.rglob("*.py")) for pair in imports(path)}
    listed = {(module, name) for module, names in IMPORTS.items() for name in names}
    assert sorted(used - listed) == [], "new: add them to IMPORTS, and what is used of them below"
    assert sorted(listed - used) == [], "no longer used"


def test_only_the_inprocess_adapter_imports_vllm():
    users = {path for path in ROOT.glob("[ad]*/**/*.py") if list(imports(path))}
    assert {path.relative_to(ROOT).parts[:3] for path in users} == {("adapters", "vllm", "inprocess")}


def test_the_list_has_all_routes():
    source = "".join(path.read_text() for path in sorted((ADAPTERS / "vllm" / "http").glob("*.py")))
    used = set(re.findall(r'"(/(?:v1/)?[a-z]+(?:/[a-z]+)*)"', source))
    assert used == set().union(*ROUTES.values())


@needs_vllm
@pytest.mark.parametrize("module", IMPORTS)
def test_every_import_exists(module):
    there = importlib.import_module(module)
    assert [name for name in sorted(IMPORTS[module]) if not hasattr(there, name)] == []


@needs_vllm
@pytest.mark.parametrize("path", CALLS)
def test_every_callable_has_the_parameters(path):
    parameters = inspect.signature(resolve(path)).parameters
    assert [name for name in CALLS[path] if name not in parameters] == []


@needs_vllm
@pytest.mark.parametrize("path", KEYS)
def test_every_key_exists(path):
    keys = get_type_hints(resolve(path)).keys()
    assert [name for name in KEYS[path] if name not in keys] == []


@needs_vllm
@pytest.mark.parametrize("path", FIELDS)
def test_every_field_exists(path):
    owner = resolve(path)
    fields = {field.name for field in dataclasses.fields(owner)}
    assert [name for name in FIELDS[path] if name not in fields] == []


@needs_vllm
@pytest.mark.parametrize("path", ATTRIBUTES)
def test_every_attribute_is_set(path):
    source = inspect.getsource(resolve(path).__init__)
    assert [name for name in ATTRIBUTES[path] if not re.search(rf"self\.{name}\b(: [^=\n]+)? =", source)] == []


@needs_vllm
def test_parsers_expose_their_parts():
    parser = resolve("vllm.parser.abstract_parser.Parser")
    for name in ("tool_parser_cls", "reasoning_parser_cls", "reasoning_parser"):
        assert hasattr(parser, name), name


@needs_vllm
def test_every_environment_variable_exists_in_vllm():
    envs = importlib.import_module("vllm.envs")
    source = "".join(path.read_text() for path in sorted(INPROCESS.glob("*.py")))
    names = set(re.findall(r'"(VLLM_[A-Z_]+)"', source)) | {"VLLM_API_KEY"}
    assert names
    assert sorted(names - set(envs.environment_variables)) == []


@needs_vllm
@pytest.mark.parametrize(
    ("role", "task", "model", "runner"),
    [
        ("embed", "embed", "tiny-embed", "pooling"),
        ("generate", "generate", "tiny-gen", "generate"),
        ("rerank", "classify", "tiny-rerank", "pooling"),
    ],
)
def test_a_server_has_every_route(role, task, model, runner, tiny_models):
    arguments = parse_flags(["--model", str(tiny_models[model]), "--runner", runner, "--dtype", "float32"])
    config = resolve("vllm.engine.arg_utils.AsyncEngineArgs").from_cli_args(arguments).create_model_config()
    app = resolve("vllm.entrypoints.launchers.app.build_app")(arguments, (task,), config)
    assert sorted(ROUTES[role] - {getattr(route, "path", "") for route in app.routes}) == []


@needs_vllm
@pytest.mark.parametrize(("role", "port"), [("embed", 8100), ("generate", 8101)])
def test_a_server_accepts_the_flags_of_the_compose_file(role, port):
    arguments = parse_flags(list(compose("compose.yaml")["services"][role]["command"]))
    assert (arguments.port, arguments.enable_log_requests) == (port, False)
    assert arguments.enable_prefix_caching is True
    assert arguments.disable_uvicorn_access_log is True
    assert arguments.kv_cache_memory_bytes >= 2**30
    if role == "embed":
        assert (arguments.runner, arguments.hf_overrides) == ("pooling", {"is_matryoshka": True})
    else:
        assert arguments.enable_prompt_tokens_details is True
        assert (arguments.tool_call_parser, arguments.reasoning_parser) == ("hermes", "qwen3")
        assert arguments.tool_call_parser in resolve("vllm.tool_parsers.ToolParserManager").list_registered()
        assert arguments.reasoning_parser in resolve("vllm.reasoning.ReasoningParserManager").list_registered()


@needs_vllm
def test_memory_flags_has_all_names_of_its_flags():
    parser = resolve("vllm.utils.argparse_utils.FlexibleArgumentParser")(add_help=False)
    names = [
        set(action.option_strings)
        for action in resolve("vllm.engine.arg_utils.AsyncEngineArgs").add_cli_args(parser)._actions
    ]
    first = {*vllm_flags.UNSUPPORTED, *vllm_flags.MEMORY_FLAGS}
    # The parser itself handles --config.
    assert {*first, *vllm_flags.ALIASES} - {"--config"} <= set().union(*names)
    for same in names:
        affirming = {name for name in same if not name.startswith("--no-")}
        assert not affirming & first or {vllm_flags.flag_name(name) for name in affirming} <= first, same
    taken = {
        name
        for name in set().union(*names) - first - set(vllm_flags.ALIASES)
        if vllm_flags.flag_name(name) != name
    }
    assert not taken, "complete names that vllm_flags takes for a prefix of another one"
    short = {name for same in names for name in same if re.fullmatch("-[a-z]", name)}
    begin = [name for same in names for name in same if name[:2] in short and len(name) > 2]
    assert not begin, "vllm_flags.SHORT_FLAG takes them for a single-letter flag"
    assert all(vllm_flags.SHORT_FLAG.match(f"{name}x") for name in short & set(vllm_flags.ALIASES))


def parse_flags(words: list[str]) -> Any:
    """Flags of a server, parsed by its own parser."""
    parser = resolve("vllm.utils.argparse_utils.FlexibleArgumentParser")()
    return resolve("vllm.entrypoints.launchers.cli_args.make_arg_parser")(parser).parse_args(words)
