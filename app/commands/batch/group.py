"""The commands `memoria batch run`, `wait` and `cancel`.

As those of `app.cli`, they import what they need themselves.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from domain.errors import ConfigurationError

if TYPE_CHECKING:
    from app.commands.batch.client import BatchClient
    from app.commands.console import Console


@click.group()
def batch() -> None:
    """Run the requests in a file as a batch of a running service."""


def _client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which service, and who asks."""
    command = click.option("--api-key", envvar="MEMORIA_API_KEY", help="API key; also MEMORIA_API_KEY.")(command)
    return click.option("--url", help="Address of the service; overrides HOST and PORT.")(command)


@batch.command("run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--endpoint", help="Path that the lines name; default: the first line's.")
@click.option("--window", default="24h", show_default=True, help="How long the batch may take.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="File for the answers; default: FILE.output.jsonl."
)
@_client_options
def run_batch(
    file: Path, endpoint: str | None, window: str, output: Path | None, url: str | None, api_key: str | None
) -> None:
    """Upload FILE, run it as a batch, wait for it, and download the answers and errors.

    Exit status: 0 if all lines were answered, 1 if not, 2 for a usage or configuration error.
    """
    from app.commands.batch.command import BatchPlan, run_batch

    plan = BatchPlan(file=file, endpoint=endpoint, window=window, output=output)
    _with_batches(url, api_key, lambda client, console: run_batch(client, plan, console))


@batch.command("wait")
@click.argument("batch_id")
@click.option("--output", type=click.Path(path_type=Path), help="File for the answers; default: ID.output.jsonl.")
@_client_options
def wait_for_batch(batch_id: str, output: Path | None, url: str | None, api_key: str | None) -> None:
    """Wait for a batch, and download its answers and errors."""
    from app.commands.batch.command import wait_for

    target = output or Path(f"{batch_id}.output.jsonl")
    _with_batches(url, api_key, lambda client, console: wait_for(client, batch_id, target, console))


@batch.command("cancel")
@click.argument("batch_id")
@_client_options
def cancel_batch(batch_id: str, url: str | None, api_key: str | None) -> None:
    """Cancel a batch; what was answered is kept."""
    from app.commands.batch.command import cancel

    _with_batches(url, api_key, lambda client, console: cancel(client, batch_id, console))


def _with_batches(url: str | None, api_key: str | None, work: "Callable[[BatchClient, Console], int]") -> NoReturn:
    """Do some work with a client of the service, and exit with its status."""
    from app.cli import fail, read_settings
    from app.commands.batch.client import BatchClient
    from app.commands.console import Console
    from app.commands.service_url import given_url, local_url

    console = Console()
    try:
        if url is None:
            settings = read_settings(console, {})
            url, api_key = local_url(settings), api_key or next(iter(settings.security.api_keys), None)
        with BatchClient(given_url(url), api_key) as client:
            code = work(client, console)
    except ConfigurationError as error:
        fail(console, error)
    except KeyboardInterrupt:
        console.say("Interrupted.")
        code = 130
    sys.exit(code)
