"""Configures OpenCode, which uses chat completions here. Measured with version 1.18.33."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.commands.launch.agent import Configuration, answer_tokens, home
from app.commands.launch.merging import merge_json
from app.commands.launch.target import KEY, Target

PROVIDER = "memoria"
PACKAGE = "@ai-sdk/openai-compatible"
"""Comes with OpenCode."""
PROMPT = 7_000
"""About the tokens of the first request (31 kB)."""


def configure(target: Target, environ: Mapping[str, str]) -> Configuration:
    """The configuration of OpenCode: a part of opencode.json."""
    model: dict[str, Any] = {"name": target.model, "tool_call": True}
    if target.context is not None:
        model["limit"] = {"context": target.context, "output": answer_tokens(target)}
    values = {
        "model": f"{PROVIDER}/{target.model}",
        # For titles.
        "small_model": f"{PROVIDER}/{target.model}",
        "provider": {
            PROVIDER: {
                "npm": PACKAGE,
                "name": PROVIDER,
                "options": {"baseURL": f"{target.url}/v1", "apiKey": f"{{env:{KEY}}}"},
                "models": {target.model: model},
            }
        },
    }
    new = {"$schema": "https://opencode.ai/config.json", **values}
    folder = Path(environ.get("XDG_CONFIG_HOME") or home(environ) / ".config") / "opencode"
    path = Path(environ.get("OPENCODE_CONFIG") or folder / "opencode.json")
    return Configuration(
        shown=merge_json("", new)[0],
        usage=f"This belongs in {path}; --write adds it there.",
        path=path,
        merge=lambda content: merge_json(content, values if content.strip() else new),
        hints=_hints(target),
    )


def _hints(target: Target) -> list[str]:
    hints = [f"OpenCode reads the API key from {KEY}, which may be unset if the service requires no key."]
    if target.context is not None and target.context < 2 * PROMPT:
        hints.append(
            f"{target.context:,} tokens of context are few: the first request alone has about {PROMPT:,}."
        )
    return hints
