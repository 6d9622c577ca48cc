"""What is written for people of the settings: .env.example, docs/settings.md, and the README's table."""

import posixpath
from collections.abc import Iterable

from app.settings.compose_variables import COMPOSE_VARIABLES
from app.settings.variable import Variable
from app.settings.variables import GROUPS, VARIABLES

CHANGED_MOST = (
    "HOST",
    "PORT",
    "API_KEYS",
    "MODEL_EMBED_NAME",
    "MODEL_GEN_NAME",
    "MODEL_GEN_ALIASES",
    "EMBED_BACKEND",
    "GEN_BACKEND",
    "VLLM_EMBED_URL",
    "VLLM_GEN_URL",
    "VLLM_GEN_ARGS",
    "REQUEST_TIMEOUT_S",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
"""What the README shows."""
PAGE = "docs/settings.md"


def env_example() -> str:
    """The text of .env.example: every variable with what it is for and its default."""
    lines = ["# Copy to .env and change what you need. The environment wins over this file."]
    for group in GROUPS:
        more = f" More: {group.guide}" if group.guide else ""
        lines += ["", "", f"# --- {group.title} ---", f"# {group.about}{more}"]
        for variable in group.variables:
            lines += ["", f"# {variable.about}", f"#{variable.name}={variable.default}"]
    lines += [
        "",
        "",
        "# --- Only for containers ---",
        "# What deploy/compose*.yaml read besides. The service reads none of these. More: docs/deployment.md",
    ]
    for extra in COMPOSE_VARIABLES:
        lines += ["", f"# {extra.about}", f"#{extra.name}={extra.default}"]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """The text of docs/settings.md: a table for each group."""
    parts = [
        "# Settings\n",
        "All that can be set, with its default. It is read from the environment, or from `.env` in the folder\n"
        "where the service starts; the environment wins. `.env.example` has the same list. Every mistake is\n"
        "reported at once, before anything starts.\n\n"
        f"What the compose files read besides: {_link('docs/deployment.md')}.\n"
        "`python -m app.settings --page` prints this page.\n",
    ]
    for group in GROUPS:
        more = f" More: {_link(group.guide)}." if group.guide else ""
        parts += [f"## {group.title}\n", f"{group.about}{more}\n", _table(group.variables)]
    return "\n".join(parts)


def readme_table() -> str:
    """The README's table: what is changed most."""
    variables = {variable.name: variable for variable in VARIABLES}
    return _table(variables[name] for name in CHANGED_MOST)


def _link(path: str) -> str:
    """A link from the page of settings to another of the project's."""
    return f"[{posixpath.basename(path)}]({posixpath.relpath(path, posixpath.dirname(PAGE))})"


def _table(variables: Iterable[Variable]) -> str:
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    rows += [
        f"| `{variable.name}` | {f'`{variable.default}`' if variable.default else ''} | {variable.about} |"
        for variable in variables
    ]
    return "\n".join(rows) + "\n"
