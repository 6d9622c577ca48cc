"""Prints .env.example; with --page docs/settings.md, with --readme the README's table.

`python -m tools.settings_documents [--page | --readme]`
"""

import posixpath
import sys

from app.settings import GROUPS, VARIABLES
from tools.compose_variables import COMPOSE_VARIABLES, table

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
"""The settings in the README."""
PAGE = "docs/settings.md"


def env_example() -> str:
    """The text of .env.example: every variable with what it is for and its default."""
    lines = ["# Copy to .env and change what you need. Environment variables take precedence over this file."]
    for group, variables in GROUPS.items():
        more = f" More: {group.guide}" if group.guide else ""
        lines += ["", "", f"# --- {group.title} ---", f"# {group.about}{more}"]
        for variable in variables:
            lines += ["", f"# {variable.about}", f"#{variable.name}={variable.default}"]
    lines += [
        "",
        "",
        "# --- Only for containers ---",
        "# Further variables of deploy/compose*.yaml. The service itself reads none of them."
        " More: docs/deployment.md",
    ]
    for extra in COMPOSE_VARIABLES:
        lines += ["", f"# {extra.about}", f"#{extra.name}={extra.default}"]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """The text of docs/settings.md: a table for each group."""
    parts = [
        "# Settings\n",
        "All settings with their defaults. They are read from environment variables, or from `.env` in the\n"
        "folder where the service is started; environment variables take precedence. `.env.example` lists the\n"
        "same settings. All mistakes are reported together, before anything is started.\n\n"
        f"The compose files read further variables: {_link('docs/deployment.md')}.\n"
        "`python -m tools.settings_documents --page` prints this page.\n",
    ]
    for group, variables in GROUPS.items():
        more = f" More: {_link(group.guide)}." if group.guide else ""
        parts += [f"## {group.title}\n", f"{group.about}{more}\n", table(variables)]
    return "\n".join(parts)


def readme_table() -> str:
    """The README's table: the most commonly changed settings."""
    variables = {variable.name: variable for variable in VARIABLES}
    return table(variables[name] for name in CHANGED_MOST)


def _link(path: str) -> str:
    """A link from the page of settings to another page of the project."""
    return f"[{posixpath.basename(path)}]({posixpath.relpath(path, posixpath.dirname(PAGE))})"


if __name__ == "__main__":
    printed = {"--page": settings_page, "--readme": readme_table}.get("".join(sys.argv[1:]), env_example)
    print(printed(), end="")
