"""Configures Codex CLI, which uses the Responses API alone. Measured with version 0.171."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.commands.launch.agent import Configuration, home, is_small
from app.commands.launch.merging import merge_toml
from app.commands.launch.target import KEY, Target

PROVIDER = "memoria"
"""Not "OpenAI": under that name Codex leaves it to the server to summarize long conversations."""
SMALL_PROMPT = 2_500
"""About the tokens of the first request with fewer tools and the short instructions of `GET /v1/models`."""


def configure(target: Target, environ: Mapping[str, str]) -> Configuration:
    """The configuration of Codex: a part of config.toml."""
    provider: dict[str, Any] = {
        "name": PROVIDER,
        "base_url": f"{target.url}/v1",
        "env_key": KEY,
        "wire_api": "responses",
    }
    values: dict[str, Any] = {"model": target.model, "model_provider": PROVIDER}
    if target.context is not None:
        values["model_context_window"] = target.context
    # With plugins Codex asks github.com and chatgpt.com for them whenever it starts.
    defaults: dict[str, Any] = {"features": {"plugins": False}}
    if is_small(target):
        # The service's catalog has instructions of a few lines; Codex' own have 17 kB.
        provider["model_catalog_url"] = f"{target.url}/v1/models"
        defaults = {
            "web_search": "disabled",
            "features": {"plugins": False, "api_key_model_discovery": True, "goals": False},
            "agents": {"enabled": False},
        }
    values["model_providers"] = {PROVIDER: provider}
    path = Path(environ.get("CODEX_HOME") or home(environ) / ".codex") / "config.toml"
    return Configuration(
        shown=merge_toml("", values, defaults)[0],
        usage=f"This belongs in {path}; --write adds it there.",
        path=path,
        merge=lambda content: merge_toml(content, values, defaults),
        hints=_hints(target),
    )


def _hints(target: Target) -> list[str]:
    hints = [
        f"Codex reads the API key from {KEY}, which must be set: to any value if the service requires no key."
    ]
    if target.model.startswith("gpt-"):
        hints.append(
            f"Codex takes '{target.model}' for a model of OpenAI's and sends other tools to it. Use the model's "
            "own name, or an alias that does not begin with gpt-."
        )
    if target.context is not None and target.context < 2 * SMALL_PROMPT:
        hints.append(
            f"{target.context:,} tokens of context are too few: the first request has about {SMALL_PROMPT:,}."
        )
    elif is_small(target):
        hints.append(
            "The context is short, so Codex gets fewer tools and the short instructions of GET /v1/models."
        )
    return hints
