"""Logs once that the database is unavailable, and once that it is back."""

import logging
import threading
import time

from sqlalchemy import URL

from adapters.state.failures import describe
from adapters.state.processes import DEAD_AFTER_S

log = logging.getLogger("memoria")


class Outage:
    """Tracks whether the database is available, for all threads that use it."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._is_out = False
        self._trusts_heartbeats_at = 0.0

    def failed(self, error: BaseException) -> None:
        """Note that the database failed."""
        with self._lock:
            is_first, self._is_out = not self._is_out, True
        if is_first:
            log.error(
                "the database of stored responses is unavailable (%s); requests that need it get status 503 until"
                " it is available again",
                describe(self._url, error),
            )

    def worked(self) -> None:
        """Note that the database worked."""
        if not self._is_out:
            return
        with self._lock:
            was_out, self._is_out = self._is_out, False
            self._trusts_heartbeats_at = time.monotonic() + DEAD_AFTER_S
        if was_out:
            log.warning("the database of stored responses is available again")

    def refused(self, error: BaseException, what: str = "write") -> None:
        """Log that the database works, and rejected one write or read."""
        log.error("the database rejected a %s: %s", what, describe(self._url, error))

    @property
    def trusts_heartbeats(self) -> bool:
        """Whether heartbeats are old only if their processes have ended: not soon after an outage."""
        return not self._is_out and time.monotonic() >= self._trusts_heartbeats_at
