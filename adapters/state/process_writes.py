"""Records live processes, reports the responses of those that have ended as failed, and frees their batches."""

import logging
from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, Connection, bindparam, delete, select, update

from adapters.state.database import Database
from adapters.state.processes import ProcessInfo
from adapters.state.tables import batches, processes, responses
from domain.state import ResponseStatus

log = logging.getLogger("memoria")
Interrupted = Callable[[bytes], bytes]
"""Turns the body of an unfinished response into that of a failed one."""
CHUNK = 100

_FAIL = (
    update(responses)
    .where(responses.c.id == bindparam("b_id"))
    .values(status=ResponseStatus.FAILED.value, process_id=None, cancel_requested=False, body=bindparam("body"))
)


class ProcessWrites:
    """Functions that are called in a transaction of the writer."""

    def __init__(self, database: Database, interrupted: Interrupted) -> None:
        self._interrupted = interrupted
        self._now = database.now
        inserted = database.insert(processes)
        self._upsert = inserted.on_conflict_do_update(
            index_elements=[processes.c.id], set_={"heartbeat": inserted.excluded.heartbeat}
        )

    def heartbeat(self, connection: Connection, process_id: str, process: ProcessInfo) -> None:
        """Record a process's heartbeat."""
        connection.execute(
            self._upsert.values(
                id=process_id, host=process.host, pid=process.pid, started=process.started, heartbeat=self._now
            )
        )

    def end(self, connection: Connection, process_id: str) -> None:
        """Report the unfinished responses of a process as failed, free its batches, and forget the process."""
        self._fail(connection, responses.c.process_id == process_id)
        connection.execute(update(batches).where(batches.c.process_id == process_id).values(process_id=None))
        connection.execute(delete(processes).where(processes.c.id == process_id))

    def fail(self, connection: Connection, response_ids: Sequence[str]) -> int:
        """Report those of the responses as failed that are unfinished; returns their number."""
        return sum(
            self._fail(
                connection,
                responses.c.process_id.is_not(None) & responses.c.id.in_(response_ids[start : start + CHUNK]),
            )
            for start in range(0, len(response_ids), CHUNK)
        )

    def _fail(self, connection: Connection, condition: ColumnElement[bool]) -> int:
        unfinished = (
            select(responses.c.id, responses.c.body)
            .where(condition)
            .order_by(responses.c.id)
            .limit(CHUNK)
            .with_for_update()
        )
        count = 0
        while rows := connection.execute(unfinished).all():
            connection.execute(_FAIL, [{"b_id": row.id, "body": self._failed_body(row.body)} for row in rows])
            count += len(rows)
        return count

    def _failed_body(self, body: bytes) -> bytes:
        try:
            return self._interrupted(body)
        except Exception:  # What a body can't be turned into must not keep the others from being reported.
            log.exception("a stored response can't be reported as failed; its body stays as it is")
            return body
