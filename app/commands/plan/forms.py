"""Prints a plan as text, as JSON, or as lines for .env."""

import msgspec
from rich.console import Console

from app.commands.plan.question import AnsweredPlan
from app.commands.plan.text import WIDTH, print_plan
from app.http.codec import encode
from app.settings import HTTP
from domain.errors import ConfigurationError
from domain.roles import ROLES


def print_answer(answer: AnsweredPlan, form: str | None) -> None:
    """Write a plan to standard output.

    Args:
        answer: the plan.
        form: json, env or compose; None for text.

    Raises:
        ConfigurationError: the plan can't be printed in this form.
    """
    if form == "json":
        print(msgspec.json.format(encode(answer.plan), indent=2).decode())
    elif form is None:
        console = Console(highlight=False, soft_wrap=True, width=WIDTH)
        print_plan(answer.plan, console)
    else:
        print("\n".join(_lines(answer, form)))


def _require_hub_name(model: str) -> None:
    """Raise if a server in a container can't load the model: it has neither the model packages nor this disk."""
    kind = "a local folder" if model.startswith("/") else "a packaged model" if "/" not in model else None
    if kind is not None:
        raise ConfigurationError(
            f"The servers of deploy/compose.yaml load models from the hub, but '{model}' is {kind}. Name a model "
            "on the hub, or use the plan for engines in process (--env)."
        )


def _lines(answer: AnsweredPlan, form: str) -> list[str]:
    """Lines for .env, which the service passes to its engines, or deploy/compose.yaml to vLLM's servers."""
    lines: list[str] = []
    for engine in answer.plan.engines:
        name, model = ROLES[engine.role].prefix, answer.models[engine.role]
        memory = answer.memory_flags[engine.role]
        if form == "compose":
            _require_hub_name(model)
        lines.append(f"MODEL_{name}_NAME={model}")
        if form == "compose":
            lines.append(f"VLLM_{name}_MEMORY_ARGS={memory}")
            if ROLES[engine.role].is_optional:
                lines += [f"{name}_BACKEND={HTTP}", f"COMPOSE_PROFILES={engine.role}"]
        else:
            # One variable has all flags, so its other flags are kept.
            lines.append(f"VLLM_{name}_ARGS={' '.join(filter(None, (memory, answer.other_flags[engine.role])))}")
    return lines
