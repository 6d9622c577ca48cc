"""What policies report of a request while they have it, to its observer if it has one.

The domain knows neither spans nor metrics. A request that is observed carries an `Observer` in its context, and
the policies that let it wait report when and for how long.
"""

import enum
from collections.abc import Mapping
from typing import Protocol


class Phase(enum.StrEnum):
    """What a request may wait for before an engine has it."""

    QUEUE = "queue"
    """One of the places among the requests that the engine works on (`domain.policies.admission`)."""
    JOIN = "join"
    """The end of the call before its batch's (`domain.policies.batching`)."""


class Observer(Protocol):
    """Observes one operation of one request. All moments are seconds of `time.monotonic`."""

    def waited(self, phase: Phase, began: float, ended: float) -> None:
        """The request has waited, and goes on now."""
        ...

    def batched(self, began: float, ended: float, *, batch_size: int, trace: Mapping[str, str] | None) -> None:
        """The request was part of a batch, whose call has ended.

        Args:
            began: when the call began.
            ended: when it ended, successfully or not.
            batch_size: requests in the batch, this one included.
            trace: the trace context of the request that the call was made for; None if it is not traced.
        """
        ...
