"""Runs `memoria batch`: its steps, what it prints, and its exit status."""

import contextlib
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from app.commands.batch.client import BatchClient, RemoteBatch, UnreachableError, first_endpoint
from app.commands.batch.progress import BatchProgress
from app.commands.console import Console
from domain.errors import ConfigurationError

T = TypeVar("T")

POLL_S = 1.0
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
MAX_SHOWN_ERRORS = 20
INTERRUPTED = 130


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run, and where its results go."""

    file: Path
    endpoint: str | None
    """None for that of the first line."""
    window: str
    output: Path | None
    """None for a name that follows from that of the input."""


def run_batch(client: BatchClient, plan: BatchPlan, console: Console) -> int:
    """Run a file as a batch; return the exit status.

    Raises:
        ConfigurationError: the file can't be read, or the service refuses it.
    """
    endpoint = plan.endpoint or first_endpoint(plan.file)
    if endpoint is None:
        raise ConfigurationError(f"The first line of {plan.file} names no 'url'. Give --endpoint.")
    progress = BatchProgress(console)
    try:
        with progress.upload(plan.file) as on_bytes:
            file_id = client.upload(plan.file, on_bytes)
        batch = client.create(file_id, endpoint, plan.window)
    except UnreachableError as error:
        raise ConfigurationError(str(error)) from None
    console.say(f"Created {batch.id} for {endpoint}.")
    output = plan.output or plan.file.with_name(f"{plan.file.stem}.output.jsonl")
    return wait_for(client, batch.id, output, console)


def wait_for(
    client: BatchClient,
    batch_id: str,
    output: Path,
    console: Console,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Wait for the end of a batch, and download its results; return the exit status.

    Args:
        client: sends the requests.
        batch_id: the batch.
        output: where the answers go; failed lines go beside it.
        console: where messages go.
        sleep: waits, for tests.

    Raises:
        ConfigurationError: there is no such batch, or a file can't be written.
    """
    try:
        batch = _ended(client, batch_id, console, sleep)
        return _fetch(client, batch, output, console, sleep)
    except KeyboardInterrupt:
        return _interrupted(client, batch_id, console)


def cancel(client: BatchClient, batch_id: str, console: Console) -> int:
    """Cancel a batch; return the exit status.

    Raises:
        ConfigurationError: there is no such batch, it has ended, or the service does not answer.
    """
    try:
        batch = client.cancel(batch_id)
    except UnreachableError as error:
        raise ConfigurationError(str(error)) from None
    console.say(f"{batch.id} is {batch.status}. To get what was answered: memoria batch wait {batch.id}")
    return 0


def _ended(client: BatchClient, batch_id: str, console: Console, sleep: Callable[[float], None]) -> RemoteBatch:
    with BatchProgress(console).lines() as show:
        while True:
            batch = _patiently(lambda: client.retrieve(batch_id), console, sleep)
            show(batch)
            if batch.status in ENDED:
                return batch
            sleep(POLL_S)


def _patiently(call: Callable[[], T], console: Console, sleep: Callable[[float], None]) -> T:
    """Call until the service answers: it may be restarted while a batch runs."""
    is_reported = False
    while True:
        try:
            return call()
        except UnreachableError as error:
            if not is_reported:
                console.warn(f"{error} Waiting until it does.")
                is_reported = True
            sleep(POLL_S)


def _fetch(
    client: BatchClient, batch: RemoteBatch, output: Path, console: Console, sleep: Callable[[float], None]
) -> int:
    """Download the results and report the end."""
    errors = output.with_name(f"{output.stem.removesuffix('.output')}.errors.jsonl")
    found = ((batch.output_file_id, output, "answers"), (batch.error_file_id, errors, "errors"))
    for file_id, target, what in found:
        if file_id is not None:
            _patiently(partial(client.download, file_id, target), console, sleep)
            console.say(f"Wrote the {what} to {target}.")
    for error in (batch.errors.data if batch.errors is not None else [])[:MAX_SHOWN_ERRORS]:
        where = f"line {error.line}: " if error.line is not None else ""
        console.fail(f"{where}{error.message} ({error.code})")
    counts = batch.request_counts
    summary = f"{batch.id} is {batch.status}: {counts.completed} of {counts.total} lines answered"
    if batch.status == "completed" and not counts.failed:
        console.say(f"{summary}.")
        return 0
    console.fail(f"{summary}, {counts.failed} failed.")
    return 1


def _interrupted(client: BatchClient, batch_id: str, console: Console) -> int:
    """Cancel the batch if its user wants that; otherwise it goes on."""
    wants_cancel = False
    if sys.stdin.isatty():
        with contextlib.suppress(click.Abort, KeyboardInterrupt):
            wants_cancel = click.confirm(f"\nCancel {batch_id}?", default=False, err=True)
    if wants_cancel:
        try:
            client.cancel(batch_id)
            console.say(f"{batch_id} is being cancelled. What was answered: memoria batch wait {batch_id}")
        except (UnreachableError, ConfigurationError) as error:
            console.fail(str(error))
    else:
        console.say(f"{batch_id} goes on without this command. To wait for it: memoria batch wait {batch_id}")
    return INTERRUPTED
