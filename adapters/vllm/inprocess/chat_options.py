"""Selects a model's chat template and its parsers for tool calls and reasoning.

`vllm serve` needs flags for them. Here they are derived from the model if possible; vLLM's flags in
`VLLM_GEN_ARGS` override them.
"""

import argparse
import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from domain.errors import ConfigurationError
from domain.model_facts import is_sentence_encoder

if TYPE_CHECKING:
    from vllm.config import ModelConfig

# Flags of vLLM's web server that are useful without it.
FLAGS = (
    "chat_template",
    "chat_template_content_format",
    "default_chat_template_kwargs",
    "tool_call_parser",
    "tool_parser_plugin",
    "tool_strict_level",
    # Always on here; accepted so that an existing command line works.
    "enable_auto_tool_choice",
)
DEFAULT_TOOL_PARSER = "hermes"
"""Parses the format of most templates with tools; forced calls of models without a format use it too."""

# By `model_type` of the model's config.json. Source: vllm.tool_parsers and vllm.reasoning (0.32.0).
TOOL_PARSERS = {
    "apertus": "apertus",
    "cohere2": "cohere_command3",
    "deepseek_v32": "deepseek_v32",
    "deepseek_v4": "deepseek_v4",
    "ernie4_5": "ernie45",
    "ernie4_5_moe": "ernie45",
    "gemma4": "gemma4",
    "glm4_moe": "glm45",
    "gpt_oss": "openai",
    "granite": "granite",
    "granitemoe": "granite",
    "granitemoehybrid": "granite4",
    "hunyuan_v1_dense": "hunyuan_a13b",
    "hunyuan_v1_moe": "hunyuan_a13b",
    "internlm2": "internlm",
    "jamba": "jamba",
    "kimi_k2": "kimi_k2",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2",
    "llama4": "llama4_pythonic",
    "mimo": "mimo",
    "minimax_m2": "minimax_m2",
    "mistral": "mistral",
    "mixtral": "mistral",
    "olmo3": "olmo3",
    "plamo3": "plamo3",
    "seed_oss": "seed_oss",
    "step3_text": "step3",
}
REASONING_PARSERS = {
    "deepseek_v32": "deepseek_v3",
    "deepseek_v4": "deepseek_v4",
    "ernie4_5": "ernie45",
    "ernie4_5_moe": "ernie45",
    "gemma4": "gemma4",
    "glm4_moe": "glm45",
    "gpt_oss": "openai_gptoss",
    "hunyuan_v1_dense": "hunyuan_a13b",
    "hunyuan_v1_moe": "hunyuan_a13b",
    "kimi_k2": "kimi_k2",
    "mimo": "mimo",
    "minimax_m2": "minimax_m2",
    "olmo3": "olmo3",
    "plamo3": "plamo3",
    "seed_oss": "seed_oss",
    "step3_text": "step3",
}
# By markup in the chat template; the first match wins.
TOOL_MARKUP = (
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v3"),
    ("<|python_tag|>", "llama3_json"),
)


class ChatOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options for a model's chat, under vLLM's names."""

    chat_template: str | None = None
    """A file or a template; None for the model's template."""
    chat_template_content_format: str = "auto"
    default_chat_template_kwargs: dict[str, Any] | None = None
    tool_call_parser: str | None = DEFAULT_TOOL_PARSER
    tool_strict_level: str = "auto"
    reasoning_parser: str | None = None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add vLLM's flags for chat to a parser, with vLLM's types and defaults."""
    from vllm.engine.arg_utils import get_kwargs
    from vllm.entrypoints.launchers.cli_args import BaseFrontendArgs

    known = get_kwargs(BaseFrontendArgs)
    known["default_chat_template_kwargs"]["type"] = json.loads
    for name in FLAGS:
        parser.add_argument(f"--{name.replace('_', '-')}", **known[name])


def tool_parser_for(model_type: str, template: str) -> str:
    """The parser for a model's tool calls.

    Args:
        model_type: of its config.json.
        template: its chat template, empty if it has none.
    """
    if model_type in TOOL_PARSERS:
        return TOOL_PARSERS[model_type]
    return next((parser for mark, parser in TOOL_MARKUP if mark in template), DEFAULT_TOOL_PARSER)


def reasoning_parser_for(model_type: str, template: str) -> str | None:
    """The parser for a model's reasoning, or None for models without known reasoning.

    Args:
        model_type: of its config.json.
        template: its chat template, empty if it has none.
    """
    if model_type in REASONING_PARSERS:
        return REASONING_PARSERS[model_type]
    if "<think>" not in template:
        return None
    return "qwen3" if model_type.startswith("qwen3") else "deepseek_r1"


def chat_template_of(model: str, revision: str | None = None) -> str:
    """The chat template of a model, empty if it has none.

    Reads small files, if necessary from the hub's cache, without loading the tokenizer.
    """
    template = _read(model, "chat_template.jinja", revision)
    if template:
        return template
    config = _read(model, "tokenizer_config.json", revision)
    found = msgspec.json.decode(config).get("chat_template") if config else None
    if isinstance(found, list):
        # Older tokenizers have several named templates.
        named = {item.get("name"): item.get("template") for item in found}
        found = named.get("tool_use") or named.get("default")
    return found if isinstance(found, str) else ""


def config_of(model: str) -> Mapping[str, Any]:
    """The config.json of a model, empty if it has none. See `chat_template_of`."""
    text = _read(model, "config.json")
    return msgspec.json.decode(text, type=dict[str, Any]) if text else {}


def is_embedding_model(model: str) -> bool:
    """Whether a model was trained for embeddings. See `chat_template_of`."""
    return is_sentence_encoder(_read(model, "modules.json"))


def _read(model: str, name: str, revision: str | None = None) -> str:
    from transformers.utils import cached_file

    path = cached_file(model, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return "" if path is None else Path(path).read_text(encoding="utf-8")


def score_options(arguments: argparse.Namespace, template: str | None, setting: str) -> ChatOptions:
    """The options of a reranker: only its template for query and document.

    Args:
        arguments: parsed flags of `vllm serve`.
        template: the model's template, which a flag overrides.
        setting: the variable that carries the flags, for error messages.

    Raises:
        ConfigurationError: a flag names a template that can't be read.
    """
    return ChatOptions(chat_template=_load_template(arguments.chat_template, setting) or template)


def chat_options(arguments: argparse.Namespace, model_config: "ModelConfig", setting: str) -> ChatOptions:
    """The chat options from the flags, with defaults from the model.

    Args:
        arguments: parsed flags of `vllm serve`.
        model_config: the model's configuration.
        setting: the variable that carries the flags, for error messages.

    Raises:
        ConfigurationError: a flag names an unknown parser or template.
    """
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    flags: Mapping[str, Any] = vars(arguments)
    try:
        if flags["tool_parser_plugin"]:
            ToolParserManager.import_tool_parser(flags["tool_parser_plugin"])
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{setting}: {error}") from error
    template = _load_template(flags["chat_template"], setting)
    _check_parser_name(
        "--tool-call-parser", flags["tool_call_parser"], ToolParserManager.list_registered(), setting
    )
    _check_parser_name(
        "--reasoning-parser", flags["reasoning_parser"], ReasoningParserManager.list_registered(), setting
    )
    if template is None:
        template = chat_template_of(model_config.tokenizer, model_config.tokenizer_revision)
    model_type = model_config.hf_config.model_type
    return ChatOptions(
        chat_template=flags["chat_template"],
        chat_template_content_format=flags["chat_template_content_format"],
        default_chat_template_kwargs=flags["default_chat_template_kwargs"],
        tool_call_parser=flags["tool_call_parser"] or tool_parser_for(model_type, template),
        tool_strict_level=flags["tool_strict_level"],
        reasoning_parser=flags["reasoning_parser"] or reasoning_parser_for(model_type, template),
    )


def _load_template(value: str | None, setting: str) -> str | None:
    """The template of a `--chat-template`, which is a file or the template itself.

    Raises:
        ConfigurationError: the file can't be read.
    """
    from vllm.exceptions import VLLMClientError
    from vllm.renderers.chat_utils import load_chat_template

    try:
        template: str | None = load_chat_template(value)
    except (OSError, ValueError, VLLMClientError) as error:
        raise ConfigurationError(f"{setting}: --chat-template: {error.args[0]}") from error
    return template


def _check_parser_name(flag: str, name: str | None, known: Iterable[str], setting: str) -> None:
    if name and name not in known:
        near = difflib.get_close_matches(name, list(known), n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise ConfigurationError(f"{setting}: {flag} is '{name}', which vLLM does not support.{meant}")
