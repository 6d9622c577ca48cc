"""The command `memoria`.

The commands import what they need themselves: engine processes import this module again when they start, and
should not have to load a web framework.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from app.commands.batch.group import batch
from domain.errors import ConfigurationError
from domain.roles import ROLES

if TYPE_CHECKING:
    from app.commands.console import Console
    from app.settings import Settings

EXIT_DOES_NOT_FIT = 1
EXIT_CONFIGURATION = 2
DOTENV = Path(".env")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="memoria-vllm")
def main() -> None:
    """One OpenAI-compatible service for an embedding and a generation model on vLLM.

    Settings come from the environment and from .env in this folder; .env.example lists them all.
    """
    signal.signal(signal.SIGTERM, _exit_on_signal)


main.add_command(batch)


@main.command()
@click.option("--host", help="Address to listen on; overrides HOST.")
@click.option("--port", help="Port to listen on; overrides PORT.")
def serve(host: str | None, port: str | None) -> None:
    """Serve all models on one port."""
    from app.commands.console import Console, console_for
    from app.commands.serve import run

    console = Console()
    try:
        settings = _read_settings({"HOST": host, "PORT": port})
        # From here on all messages use the log's format.
        console = console_for(settings.telemetry.log_format)
        _warn_of_unknown_names(console)
        code = run(settings, console)
    except ConfigurationError as error:
        fail(console, error)
    except KeyboardInterrupt:
        console.say("Interrupted.")
        code = 130
    sys.exit(code)


@main.command()
def models() -> None:
    """Find and prepare all models, and print where they are."""
    from app.commands.console import Console
    from app.engines import prepare_models

    console = Console()
    try:
        with console.progress() as progress:
            found = prepare_models(read_settings(console, {}), progress)
    except ConfigurationError as error:
        fail(console, error)
    for role, model in found.items():
        print(f"{role}\t{model.name}\t{model.source}")


def _engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `plan` for each role: its model and its context; plain `--context` means generation."""
    for role, info in reversed(list(ROLES.items())):
        option = f"--{info.prefix.lower()}"
        short = ["--context"] if info.generates else []
        command = click.option(
            *short,
            f"{option}-context",
            f"{role}_context",
            type=click.IntRange(min=1),
            metavar="TOKENS",
            help=f"Longest request to the {info.noun} engine.",
        )(command)
        command = click.option(
            option,
            f"{role}_model",
            metavar="MODEL",
            help=f"{info.noun.capitalize()} model; overrides MODEL_{info.prefix}_NAME.",
        )(command)
    return command


@main.command()
@click.option("--gpu-memory", metavar="SIZE", help="Plan for a card of this size, such as 24GiB.")
@click.option("--gpu-name", metavar="NAME", help="Name of that card.")
@_engine_options
@click.option("--concurrency", type=click.IntRange(min=1), help="Concurrent full-length generation requests.")
@click.option(
    "--kv-cache-dtype", metavar="TYPE", help="Type of the generation engine's KV cache, as for vLLM: auto, fp8, …"
)
@click.option("--json", "form", flag_value="json", help="The plan as JSON, in bytes.")
@click.option("--env", "form", flag_value="env", help="Lines for .env that fix the plan, for engines in process.")
@click.option("--compose", "form", flag_value="compose", help="The same for the servers of deploy/compose.yaml.")
def plan(
    gpu_memory: str | None,
    gpu_name: str | None,
    concurrency: int | None,
    kv_cache_dtype: str | None,
    form: str | None,
    **engines: Any,
) -> None:
    """Plan how all models share one card, or this machine's memory.

    Exit status: 0 if they fit, 1 if not, 2 for a usage or configuration error.
    """
    from app.commands.console import Console
    from app.commands.plan.composition import plan_memory
    from app.commands.plan.forms import print_answer
    from app.commands.plan.question import EngineQuestion, PlanQuestion, card_bytes

    console = Console()
    try:
        question = PlanQuestion(
            gpu_bytes=card_bytes(gpu_memory),
            gpu_name=gpu_name,
            engines={
                role: EngineQuestion(
                    model=engines[f"{role}_model"],
                    context=engines[f"{role}_context"],
                    concurrency=concurrency if info.generates else None,
                    kv_cache_dtype=kv_cache_dtype if info.generates else None,
                )
                for role, info in ROLES.items()
            },
        )
        with console.progress() as progress:
            # An optional engine is planned if either names its model.
            overrides = {
                f"MODEL_{info.prefix}_NAME": engines[f"{role}_model"]
                for role, info in ROLES.items()
                if info.is_optional
            }
            answer = plan_memory(read_settings(console, overrides), question, progress)
        print_answer(answer, form)
    except ConfigurationError as error:
        fail(console, error)
    sys.exit(0 if answer.plan.fits else EXIT_DOES_NOT_FIT)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def doctor(as_json: bool) -> None:
    """Check for problems that would keep the service from starting, and say how to fix them.

    Exit status: 1 if there are any, 0 if there are none or only warnings.
    """
    from app.commands.doctor.composition import examine
    from app.commands.doctor.finding import Verdict
    from app.commands.doctor.printed import print_report, spinner

    try:
        with spinner() as progress:
            report = examine(os.environ, Path(".env"), progress=progress)
    except KeyboardInterrupt:
        sys.exit(130)
    print_report(report, as_json=as_json)
    sys.exit(1 if report.verdict is Verdict.FAILURE else 0)


@main.command()
@click.option("--url", default="http://127.0.0.1:8200", show_default=True, help="The running service to measure.")
@click.option("--compare", is_flag=True, help="Start this service and others on tiny models, and compare them.")
@click.option("--telemetry", is_flag=True, help="Start this service with and without telemetry, and compare.")
@click.option("--responses", is_flag=True, help="Start this service, and compare responses with chat completions.")
@click.option("--batches", is_flag=True, help="Start this service, and measure what batches cost and reach.")
@click.option("--vllm-flags", default="", help="With --compare: more flags for vLLM's own servers.")
@click.option("--soak", type=click.FloatRange(min=0.05), metavar="MINUTES", help="Duration of a mixed load.")
@click.option("--rate", type=click.FloatRange(min=0.1), help="Request arrival rate per second (open loop).")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100), help="Rounds per comparison.")
@click.option("--seconds", default=4.0, show_default=True, type=click.FloatRange(0.2, 600), help="Of one round.")
@click.option("--output", default="bench", show_default=True, type=click.Path(path_type=Path), help="Folder.")
def bench(
    url: str,
    compare: bool,
    telemetry: bool,
    responses: bool,
    batches: bool,
    vllm_flags: str,
    soak: float | None,
    rate: float | None,
    rounds: int,
    seconds: float,
    output: Path,
) -> None:
    """Measure a service; print a table and write report.json and report.html. Needs the extra [bench]."""
    from app.commands.bench.extra import require_extra
    from app.commands.console import Console

    console = Console()
    try:
        require_extra()
    except ConfigurationError as error:
        fail(console, error)
    from app.commands.bench.command import BenchOptions, run, tell

    options = BenchOptions(
        url=url,
        compare=compare,
        telemetry=telemetry,
        responses=responses,
        batches=batches,
        vllm_flags=vllm_flags,
        soak_minutes=soak,
        rate=rate,
        rounds=rounds,
        seconds=seconds,
        output=output,
    )
    try:
        cache = read_settings(console, {}).cache_dir
        with console.progress() as progress:
            report = run(options, cache=cache, progress=progress)
        tell(report, options)
    except ConfigurationError as error:
        fail(console, error)
    except KeyboardInterrupt:
        console.say("Interrupted.")
        sys.exit(130)


@main.command()
@click.argument("agent", type=click.Choice(["codex", "claude", "opencode"]))
@click.option("--url", help="Address of the service; overrides HOST and PORT.")
@click.option("--model", help="Name of the model; overrides MODEL_GEN_NAME.")
@click.option("--write", "is_written", is_flag=True, help="Add it to the file that the agent reads; keeps a copy.")
def launch(agent: str, url: str | None, model: str | None, is_written: bool) -> None:
    """Print the configuration that makes a coding agent use this service.

    The model's name and context length come from the running service, or else from the settings.
    """
    from app.commands.console import Console
    from app.commands.launch.command import run

    console = Console()
    try:
        run(agent, read_settings(console, {}), console, url=url, model=model, is_written=is_written)
    except ConfigurationError as error:
        fail(console, error)


def read_settings(console: "Console", overrides: dict[str, str | None]) -> "Settings":
    """The settings, with warnings of misspelled ones. Raises ConfigurationError if they are invalid."""
    settings = _read_settings(overrides)
    _warn_of_unknown_names(console)
    return settings


def _read_settings(overrides: dict[str, str | None]) -> "Settings":
    from app.settings import load_settings
    from app.telemetry import log

    given = {name: value for name, value in overrides.items() if value is not None}
    settings = load_settings({**os.environ, **given}, DOTENV)
    log.set_up(settings.log_level, log.chosen_format(settings.telemetry.log_format))
    return settings


def _warn_of_unknown_names(console: "Console") -> None:
    from app.settings import unknown_names

    for warning in unknown_names(DOTENV):
        console.warn(warning)


def fail(console: "Console", error: ConfigurationError) -> NoReturn:
    """Print a configuration error, and exit."""
    console.fail(str(error))
    sys.exit(EXIT_CONFIGURATION)


def _exit_on_signal(number: int, _frame: object) -> NoReturn:
    """Exit cleanly while nothing is served yet; the server installs its own handlers."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
