"""Request and response schemas of `/v1/batches`.

Source: OpenAI's schemas `CreateBatchRequest`, `Batch`, `BatchError` and `ListBatchesResponse`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from domain.batches import BatchError, BatchStatus, StoredBatch
from domain.errors import InvalidRequestError
from domain.openai.common import TextMap
from domain.openai.field import describe

MIN_KEPT_S, MAX_KEPT_S = 3600, 2_592_000
"""How long output files may be kept (OpenAI's limits), in seconds."""
DEFAULT_KEPT_S = MAX_KEPT_S
MAX_WINDOW_H = 720
_WINDOW = re.compile(r"([1-9]\d{0,2})([hd])", re.ASCII)


class OutputExpiresAfter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the output files of a batch are removed."""

    anchor: Annotated[Literal["created_at"], describe("The file's creation.")]
    seconds: Annotated[
        Annotated[int, msgspec.Meta(ge=MIN_KEPT_S, le=MAX_KEPT_S)],
        describe("Seconds after it: one hour to 30 days."),
    ]


class BatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a request for a batch."""

    input_file_id: Annotated[str, describe("Id of a file with the purpose `batch`: one request per line.")]
    endpoint: Annotated[str, describe("Path that every line names, such as `/v1/embeddings`.")]
    completion_window: Annotated[
        str, describe("How long the batch may take: `24h`; also other hours or days from `1h` to `30d`.")
    ]
    metadata: Annotated[TextMap | None, describe("At most 16 key-value pairs, stored and returned.")] = None
    output_expires_after: Annotated[
        OutputExpiresAfter | None,
        describe("When the output files are removed; by default after 30 days, as at OpenAI."),
    ] = None

    @property
    def window_s(self) -> int:
        """The completion window in seconds.

        Raises:
            InvalidRequestError: it is none.
        """
        window = _WINDOW.fullmatch(self.completion_window)
        hours = int(window[1]) * (24 if window[2] == "d" else 1) if window else 0
        if not 1 <= hours <= MAX_WINDOW_H:
            raise InvalidRequestError(
                f"Invalid 'completion_window': '{self.completion_window[:20]}'. It must be '24h', or another "
                "number of hours or days from '1h' to '30d'.",
                param="completion_window",
                code="invalid_value",
            )
        return hours * 3600


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch failed."""

    object: Literal["list"] = "list"
    data: Sequence["ShownError"]


class ShownError(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why a batch failed."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchRequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of a batch."""

    total: int
    completed: int
    failed: int


class BatchInputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Breakdown of input tokens."""

    cached_tokens: int


class BatchOutputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Breakdown of output tokens."""

    reasoning_tokens: int


class BatchUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the answered lines."""

    input_tokens: int
    input_tokens_details: BatchInputDetails
    output_tokens: int
    output_tokens_details: BatchOutputDetails
    total_tokens: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One batch. All times are Unix times in seconds."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchRequestCounts
    usage: BatchUsage
    metadata: Mapping[str, str] | None


class BatchList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: Sequence[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


def shown_batch(batch: StoredBatch) -> Batch:
    """A batch as clients see it."""
    usage = batch.usage
    return Batch(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        errors=BatchErrors(data=[_shown_error(each) for each in batch.errors]) if batch.errors else None,
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=batch.status,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=batch.created,
        in_progress_at=batch.in_progress_at,
        expires_at=batch.expires,
        finalizing_at=batch.finalizing_at,
        completed_at=batch.completed_at,
        failed_at=batch.failed_at,
        expired_at=batch.expired_at,
        cancelling_at=batch.cancelling_at,
        cancelled_at=batch.cancelled_at,
        request_counts=BatchRequestCounts(total=batch.total, completed=batch.completed, failed=batch.failed),
        usage=BatchUsage(
            input_tokens=usage.input_tokens,
            input_tokens_details=BatchInputDetails(cached_tokens=usage.cached_tokens),
            output_tokens=usage.output_tokens,
            output_tokens_details=BatchOutputDetails(reasoning_tokens=usage.reasoning_tokens),
            total_tokens=usage.input_tokens + usage.output_tokens,
        ),
        metadata=batch.metadata,
    )


def _shown_error(error: BatchError) -> ShownError:
    return ShownError(code=error.code, line=error.line, message=error.message, param=error.param)
