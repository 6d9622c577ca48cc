"""Creates, shows, lists and cancels batches (OpenAI's Batches API), and runs those of this process."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from app.batches.execution import Application, LineExecutor
from app.batches.overview import BatchesOverview, BatchWatch
from app.batches.runner import BatchRunner
from app.batches.slots import Slots
from app.batches.tools import LineCounts, RunnerOptions, Tools
from app.http.endpoint import BatchLines
from domain.batches import ENDED, BatchStatus, BatchStore, StoredBatch
from domain.catalog import ModelCatalog
from domain.errors import InvalidRequestError, StoredObjectNotFoundError, UnfinishedBatchesError
from domain.files import FileContents, FileStore
from domain.load import Bounds
from domain.openai.batches import DEFAULT_KEPT_S, Batch, BatchBody, BatchList, shown_batch
from domain.roles import Role

BATCH, FILE = "Batch", "File"


class BatchResources(msgspec.Struct, frozen=True, kw_only=True):
    """What batches of a process are made of."""

    batches: BatchStore
    files: FileStore
    contents: FileContents
    catalog: ModelCatalog
    bounds: Mapping[Role, Bounds]
    waiting: Callable[[Role], int]
    """The lines that wait for the engine of a role."""
    is_serving: Callable[[Role], bool]
    """Whether the engine of a role accepts requests."""
    options: RunnerOptions
    max_unfinished: int
    """Batches of one owner that have not ended."""
    concurrency: int | None = None
    """Lines of one role at a time; None for as many as fill its engine."""
    clock: Callable[[], float] = time.time


class BatchesService:
    """The Batches API of one process."""

    def __init__(self, resources: BatchResources | None, *, off: str = "") -> None:
        """Create it without starting anything.

        Args:
            resources: the stores and rules; None if there are no batches.
            off: why there are none, and what to do.
        """
        self._resources = resources
        self._off = off
        self._runner: BatchRunner | None = None
        self.watch = BatchWatch(resources.batches) if resources is not None else None
        """What metrics show of the batches of all processes; None if there are no batches."""
        self.counts = LineCounts()
        """Lines that this process has answered."""

    def start(self, application: Application, lines: Mapping[str, BatchLines]) -> None:
        """Begin to work on batches; the stores are open.

        Args:
            application: answers the requests of the lines.
            lines: the endpoints that a batch may name, by their paths.
        """
        own = self._resources
        if own is None:
            return
        slots = Slots(own.bounds, waiting=own.waiting, is_serving=own.is_serving, limit=own.concurrency)
        tools = Tools(
            batches=own.batches,
            files=own.files,
            contents=own.contents,
            executor=LineExecutor(application),
            slots=slots,
            catalog=own.catalog,
            lines=lines,
            options=own.options,
            counts=self.counts,
            clock=own.clock,
        )
        self._runner = BatchRunner(tools)
        self._runner.start()

    def drain(self) -> None:
        """Cancel running lines, and begin no more: a later start goes on."""
        if self._runner is not None:
            self._runner.drain()

    async def stop(self) -> None:
        """Save what was answered, and give up the claims."""
        if self.watch is not None:
            self.watch.stop()
        if self._runner is not None:
            await self._runner.stop()

    async def create(self, owner: str, body: BatchBody, endpoints: Sequence[str]) -> Batch:
        """Create a batch.

        Args:
            owner: whose it is.
            body: the request.
            endpoints: the paths that a batch may name.

        Raises:
            InvalidRequestError: there are no batches here, or a parameter is invalid.
            StoredObjectNotFoundError: there is no such file.
            UnfinishedBatchesError: there are too many batches that have not ended.
        """
        own = self._resources
        if own is None:
            raise InvalidRequestError(f"Batches are not available. {self._off}", code="unsupported_operation")
        if body.endpoint not in endpoints:
            raise InvalidRequestError(
                f"Invalid 'endpoint': '{body.endpoint[:100]}'. A batch may name {', '.join(endpoints)}.",
                param="endpoint",
                code="invalid_value",
            )
        window_s = body.window_s
        file = await own.files.file(owner, body.input_file_id)
        if file is None:
            raise StoredObjectNotFoundError(FILE, body.input_file_id, param="input_file_id")
        if file.purpose != "batch":
            raise InvalidRequestError(
                f"The file '{file.id}' has the purpose '{file.purpose}'. Upload it with the purpose 'batch'.",
                param="input_file_id",
                code="invalid_value",
            )
        await self._require_few(owner)
        now = int(own.clock())
        kept = body.output_expires_after
        batch = StoredBatch(
            id=f"batch_{secrets.token_hex(16)}",
            owner=owner,
            created=now,
            endpoint=body.endpoint,
            input_file_id=file.id,
            completion_window=body.completion_window,
            expires=now + window_s,
            metadata=body.metadata,
            output_expires_after_s=kept.seconds if kept is not None else DEFAULT_KEPT_S,
        )
        await own.batches.create_batch(batch)
        if self._runner is not None:
            self._runner.notice()
        return shown_batch(batch)

    async def get(self, owner: str, batch_id: str) -> Batch:
        """A batch. Raises StoredObjectNotFoundError if there is none of that id."""
        found = await self._store(batch_id).batch(owner, batch_id)
        return self._shown(_found(found, batch_id))

    async def list(self, owner: str, *, after: str | None, limit: int) -> BatchList:
        """A page of batches, newest first. Raises StoredObjectNotFoundError if there is no batch `after`."""
        if self._resources is None:
            return BatchList(data=[], first_id=None, last_id=None, has_more=False)
        found = await self._resources.batches.batches(owner, after=after, limit=limit)
        if found is None:
            raise StoredObjectNotFoundError(BATCH, after or "", param="after")
        data = [self._shown(batch) for batch in found[:limit]]
        return BatchList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=len(found) > limit,
        )

    async def overview(self, owner: str) -> BatchesOverview | None:
        """What the status page shows of an owner's batches; None if there are no batches here."""
        return None if self.watch is None else await self.watch.overview(owner, self._counted)

    async def cancel(self, owner: str, batch_id: str) -> Batch:
        """Ask for the end of a batch.

        Raises:
            StoredObjectNotFoundError: there is none of that id.
            InvalidRequestError: it has ended, or is about to.
        """
        own = self._resources
        at = int(own.clock()) if own is not None else 0
        batch = _found(await self._store(batch_id).request_batch_cancel(owner, batch_id, at=at), batch_id)
        if batch.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise InvalidRequestError(
                f"Cannot cancel a batch with status '{batch.status}'.", param="batch_id", code="invalid_value"
            )
        if self._runner is not None and batch.status not in ENDED:
            self._runner.cancel(batch_id)
        return self._shown(batch)

    def _store(self, batch_id: str) -> BatchStore:
        if self._resources is None:
            raise StoredObjectNotFoundError(BATCH, batch_id, param="batch_id", hint=self._off)
        return self._resources.batches

    def _shown(self, batch: StoredBatch) -> Batch:
        return shown_batch(self._counted(batch))

    def _counted(self, batch: StoredBatch) -> StoredBatch:
        return batch if self._runner is None else self._runner.shown(batch)

    async def _require_few(self, owner: str) -> None:
        own = self._resources
        assert own is not None
        unfinished = sum(batch.owner == owner for batch in await own.batches.unfinished_batches())
        if unfinished >= own.max_unfinished:
            raise UnfinishedBatchesError(unfinished)


def _found(found: StoredBatch | None, batch_id: str) -> StoredBatch:
    if found is None:
        raise StoredObjectNotFoundError(BATCH, batch_id, param="batch_id")
    return found
