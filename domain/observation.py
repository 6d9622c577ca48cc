"""Observation of requests: policies report waiting times and batches to a request's observer.

The domain has no dependency on spans or metrics. An observed request carries an `Observer` in its context, and the
policies that delay it report when and for how long.
"""

import enum
from collections.abc import Mapping
from typing import Protocol


class Phase(enum.StrEnum):
    """A reason why a request waits before it reaches an engine."""

    QUEUE = "queue"
    """Waits in the queue until the engine has capacity (`domain.policies.admission`)."""
    JOIN = "join"
    """Waits for the call in progress to end, before its own batch starts (`domain.policies.batching`)."""


class Observer(Protocol):
    """Observes one operation of one request. All times are seconds of `time.monotonic`."""

    def waited(self, phase: Phase, began: float, ended: float) -> None:
        """Called when the request has finished waiting."""
        ...

    def batched(self, began: float, ended: float, *, batch_size: int, trace: Mapping[str, str] | None) -> None:
        """Called when the call of the request's batch has ended.

        Args:
            began: when the call began.
            ended: when it ended, successfully or not.
            batch_size: requests in the batch, this one included.
            trace: the trace context that was sent with the batch's call; None if it is not traced.
        """
        ...
