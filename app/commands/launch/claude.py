"""Configures Claude Code, which uses the Messages API. Measured with version 2.1.332."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from app.commands.launch.agent import Configuration, answer_tokens, home, is_small
from app.commands.launch.merging import merge_json
from app.commands.launch.target import Target

USAGE = (
    'Run this in the shell that starts Claude Code, as with eval "$(memoria launch claude)"; --write adds it to '
    "the settings of Claude Code."
)
TOKEN = "ANTHROPIC_AUTH_TOKEN"
SMALL_TOOLS = "Bash,Edit,Read,Write"
ALL_TOOLS_PROMPT = 18_000
"""About the tokens of the first request with all tools (79 kB)."""
SMALL_PROMPT = 4_000
"""The same with `SMALL_TOOLS` (17 kB)."""
BARE_PROMPT = 1_100
"""The same with CLAUDE_CODE_SIMPLE=1 (4 kB)."""


def configure(target: Target, environ: Mapping[str, str]) -> Configuration:
    """The configuration of Claude Code: environment variables, or the block `env` of settings.json."""
    variables = _variables(target)
    path = Path(environ.get("CLAUDE_CONFIG_DIR") or home(environ) / ".claude") / "settings.json"
    return Configuration(
        shown="".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()),
        usage=USAGE,
        path=path,
        merge=lambda content: merge_json(content, {"env": variables}),
        hints=_hints(target),
    )


def _variables(target: Target) -> dict[str, str]:
    variables = {
        "ANTHROPIC_BASE_URL": target.url,
        "ANTHROPIC_MODEL": target.model,
        # For titles and summaries.
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": target.model,
        # With these, tools are loaded later, through blocks of Anthropic's own.
        "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(answer_tokens(target)),
    }
    if target.context is not None:
        # Claude Code assumes a million tokens for a model that it does not know.
        variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(target.context)
    if is_small(target):
        variables["MAX_THINKING_TOKENS"] = "0"
    if _is_bare(target):
        variables["CLAUDE_CODE_SIMPLE"] = "1"
    return variables


def _hints(target: Target) -> list[str]:
    hints = [f"Set {TOKEN} to an API key of the service: to any value if it requires none."]
    if target.context is None or not is_small(target):
        return hints
    if target.context < 2 * BARE_PROMPT:
        hints.append(
            f"{target.context:,} tokens of context are too few: the first request has at least {BARE_PROMPT:,}."
        )
    elif _is_bare(target):
        hints.append(
            f"The context is short, so Claude Code gets three tools: its first request has about "
            f"{BARE_PROMPT:,} tokens, with all tools about {ALL_TOOLS_PROMPT:,}."
        )
    else:
        hints.append(
            f"The context is short. Start it as claude --tools {SMALL_TOOLS}: with these tools the first request "
            f"has about {SMALL_PROMPT:,} tokens, with all tools about {ALL_TOOLS_PROMPT:,}."
        )
    return hints


def _is_bare(target: Target) -> bool:
    return target.context is not None and target.context < 3 * SMALL_PROMPT
