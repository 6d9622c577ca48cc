"""What policies tell of a request while they have it, to whoever watches: nobody, as a rule.

The domain knows neither spans nor metrics. A request that is watched carries an `Observer` in its context, and the
policies that let it wait tell it when and for how long.
"""

import enum
from collections.abc import Mapping
from typing import Protocol


class Phase(enum.StrEnum):
    """What a request may wait for before an engine has it."""

    QUEUE = "queue"
    """A place among those that the engine works on (`domain.policies.admission`)."""
    JOIN = "join"
    """The return of those that travelled before it (`domain.policies.joining`)."""


class Observer(Protocol):
    """Watches one operation of one request. All moments are seconds of `time.monotonic`."""

    def waited(self, phase: Phase, began: float, ended: float) -> None:
        """It has waited, and goes on now."""
        ...

    def travelled(self, began: float, ended: float, *, company: int, trace: Mapping[str, str] | None) -> None:
        """It went to the engine inside another request's call, and is back.

        Args:
            began: when the call began.
            ended: when it ended, well or not.
            company: how many requests travelled, this one included.
            trace: the trace context of the request that the call was made for; None if nobody traces it.
        """
        ...
