"""Ends a batch: makes its output files and stores them together with its last status."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from app.batches.parts import error_name, output_name
from app.batches.saving import RETRY_S, ClaimLostError, Saver
from domain.batches import Part, StoredBatch
from domain.files import FileContents, StoredFile

log = logging.getLogger("memoria")


async def end_batch(saver: Saver, contents: FileContents, *, now: int, **changes: Any) -> None:
    """End a batch with what has been answered. If the process ends before that is stored, it is done once more.

    Args:
        saver: saves the batch; all records have been handed in.
        contents: where files are.
        now: Unix time in seconds.
        changes: the last status, and what belongs to it.

    Raises:
        ClaimLostError: another process works on the batch.
        FileNotFoundError: records were removed from outside.
    """
    batch = await saver.save_surely()
    output_parts = [(output_name(part), part.output_bytes) for part in saver.parts]
    error_parts = [(error_name(part), part.error_bytes) for part in saver.parts]
    mine = saver.parts[-1]
    output = await _joined(batch, "output", mine.output_file_id, output_parts, contents, now)
    errors = await _joined(batch, "error", mine.error_file_id, error_parts, contents, now)
    files = [file for file in (output, errors) if file is not None]
    try:
        await saver.save_surely(
            files,
            output_file_id=output.id if output is not None else None,
            error_file_id=errors.id if errors is not None else None,
            **changes,
        )
    except ClaimLostError:
        for file in files:
            await _delete(contents, file.id)
        raise
    await delete_parts(saver.parts, contents)


async def delete_parts(parts: Sequence[Part], contents: FileContents) -> None:
    """Delete the files of parts that are not needed any more."""
    for part in parts:
        await _delete(contents, output_name(part))
        await _delete(contents, error_name(part))


async def _joined(
    batch: StoredBatch,
    kind: str,
    file_id: str,
    parts: Sequence[tuple[str, int]],
    contents: FileContents,
    now: int,
) -> StoredFile | None:
    """A file of the records of all parts; None if there are none."""
    written = [(name, size) for name, size in parts if size]
    if not written:
        return None
    has_failed = False
    while True:
        try:
            size = await asyncio.to_thread(contents.join, file_id, written)
            break
        except FileNotFoundError:
            # Records were removed from outside. The next claim finds out which lines have to run again.
            raise
        except OSError as error:
            if not has_failed:
                has_failed = True
                log.warning(
                    "the %s file of batch %s can't be written: %s. It is tried again until it can; free some disk "
                    "space in MEMORIA_DATA_DIR.",
                    kind,
                    batch.id,
                    error.strerror or error,
                )
            await _delete(contents, file_id)
            await asyncio.sleep(RETRY_S)
    kept_s = batch.output_expires_after_s
    return StoredFile(
        id=file_id,
        owner=batch.owner,
        created=now,
        size_bytes=size,
        name=f"{batch.id}_{kind}.jsonl",
        purpose="batch_output",
        expires=None if kept_s is None else now + kept_s,
    )


async def _delete(contents: FileContents, name: str) -> None:
    # What is left is removed later, as contents that belong to no file.
    with contextlib.suppress(OSError):
        await asyncio.to_thread(contents.delete, name)
