"""Runs `memoria launch`."""

import os

from app.commands.console import Console
from app.commands.launch import claude, codex, opencode
from app.commands.launch.agent import Configure
from app.commands.launch.files import Written, write
from app.commands.launch.target import find_target
from app.settings import Settings
from domain.roles import Role

AGENTS: dict[str, Configure] = {
    "codex": codex.configure,
    "claude": claude.configure,
    "opencode": opencode.configure,
}


def run(
    agent: str, settings: Settings, console: Console, *, url: str | None, model: str | None, is_written: bool
) -> None:
    """Print the configuration of an agent, or write it to the file that the agent reads.

    Standard output has the configuration alone.

    Raises:
        ConfigurationError: the service or its model is not known, or the file can't be changed.
    """
    found = find_target(settings, url=url, model=model, default_model=_default_model)
    configuration = AGENTS[agent](found.target, os.environ)
    for note in found.notes:
        console.say(note)
    if is_written:
        _report(write(configuration), console)
    else:
        print(configuration.shown, end="")
        console.say(configuration.usage)
    for hint in configuration.hints:
        console.say(hint)


def _report(written: Written, console: Console) -> None:
    if not written.is_changed:
        console.say(f"{written.path} has this configuration already.")
        return
    console.say(f"Wrote {written.path}.")
    if written.replaced:
        console.say(f"Replaced: {', '.join(written.replaced)}.")
    if written.backup is not None:
        console.say(f"The file as it was: {written.backup}.")


def _default_model() -> str:
    from app.engines import default_model_name

    return default_model_name(Role.GENERATE)
