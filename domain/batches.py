"""The port of the store that keeps batches.

An adapter implements `BatchStore` on the database that also keeps responses and files. Batches belong to one
owner, as `domain.state` describes.

A batch that has not ended is worked on by one process at a time: the one that has claimed it. If that process
ends, another one can claim the batch. A process that lost its claim, because it was taken for dead, is refused
when it saves, so that what it does then has no effect.
"""

import enum
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from domain.files import StoredFile


class BatchStatus(enum.StrEnum):
    """Where a batch is (OpenAI's schema `Batch.status`)."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = frozenset({BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})
"""The statuses of a batch that no process works on any more."""


class BatchError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reason why a batch, or one of its lines, was refused (OpenAI's schema `BatchError`)."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None
    """Number of the line in the input file, from 1."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one claim has written of a batch's answers, before they become files.

    Each claim writes files of its own, so that a process that lost its claim can't change what its successor has
    read.
    """

    name: str
    """Of the claim's files, in the folder of contents."""
    output_bytes: int
    """How much of its answers counts; what follows was written after the claim was lost."""
    error_bytes: int
    """The same of its failed lines."""

    @property
    def output_file_id(self) -> str:
        """Id of the output file, if the claim that writes this part ends the batch."""
        return self._file_id("output")

    @property
    def error_file_id(self) -> str:
        """The same of the error file."""
        return self._file_id("error")

    def _file_id(self, kind: str) -> str:
        # Known before the file exists, so that it is not taken for a leftover before the end is stored.
        digest = hashlib.blake2b(f"{self.name} {kind}".encode(), digest_size=12)
        return f"file-{digest.hexdigest()}"


class TokenUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the answered lines of a batch."""

    input_tokens: int = 0
    cached_tokens: int = 0
    """Those of the input that the engine took from its prefix cache."""
    output_tokens: int = 0
    reasoning_tokens: int = 0
    """Those of the output that were reasoning."""

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One batch."""

    id: str
    owner: str
    created: int
    """Unix time in seconds, as are all times here."""
    endpoint: str
    """Path that every line names, such as `/v1/embeddings`."""
    input_file_id: str
    completion_window: str
    expires: int
    """When the lines that have not been answered are given up."""
    metadata: Mapping[str, str] | None = None
    output_expires_after_s: int | None = None
    """How long its output files are kept; None until they are deleted."""
    status: BatchStatus = BatchStatus.VALIDATING
    model: str | None = None
    """The model of its lines, if they all name the same."""
    errors: Sequence[BatchError] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    """Lines of the input file."""
    completed: int = 0
    failed: int = 0
    usage: TokenUsage = TokenUsage()
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    parts: Sequence[Part] = ()
    """What earlier claims, and this one, have written."""
    claim: str = ""
    """Identifies the claim with which this was read; `claim_batch` sets it, and `save_batch` compares it."""


class BatchStore(Protocol):
    """Stores batches.

    Errors: every method raises only `StateUnavailableError` (and `asyncio.CancelledError`).

    Durability: what an awaited method has written survives the end of the process at any moment.
    """

    async def create_batch(self, batch: StoredBatch) -> None:
        """Store a batch that is to be worked on."""
        ...

    async def batch(self, owner: str, batch_id: str) -> StoredBatch | None:
        """A batch, or None if this owner has none of that id."""
        ...

    async def batches(self, owner: str, *, after: str | None, limit: int) -> Sequence[StoredBatch] | None:
        """Batches of an owner, newest first, at most `limit` and one more if there are more.

        None if `after` is no batch of this owner.
        """
        ...

    async def unfinished_batches(self) -> Sequence[StoredBatch]:
        """All batches of all owners that have not ended, oldest first."""
        ...

    async def request_batch_cancel(self, owner: str, batch_id: str, *, at: int) -> StoredBatch | None:
        """Ask for the end of a batch: its status becomes `cancelling` unless it has ended or is about to.

        Returns the batch as it is now; None if this owner has none of that id.
        """
        ...

    async def claim_batch(self, held: Collection[str] = ()) -> StoredBatch | None:
        """Claim the oldest batch that has not ended, and that no other living process has claimed.

        None if there is none. Two processes never get the same batch. One that this process has claimed without
        knowing it, because the answer was lost, or that it could not release, is claimed anew.

        Args:
            held: ids of the batches that this process works on, which it does not get again.
        """
        ...

    async def save_batch(self, batch: StoredBatch, files: Sequence[StoredFile] = ()) -> StoredBatch | None:
        """Store the progress or the end of a batch that this process has claimed, and new files, together.

        The claim is that of `claim_batch`, which the batch carries on. It ends with the batch.

        A status `validating` or `in_progress` does not replace `cancelling`, which a client may have asked for
        meanwhile; `cancelling_at` is then the time of that.

        Returns the batch as it is now; None if the claim was lost, and then nothing is stored. An end that is
        stored again, after an error that has hidden its success, is no lost claim.
        """
        ...

    async def release_batch(self, batch: StoredBatch) -> None:
        """Give up the claim with which a batch was read, so that another process can go on at once."""
        ...
