"""Allowances: how much of an engine the classes that give way may use at the moment.

An engine that computes many sequences is slow for each of them, and a sequence that has begun can't be taken back.
So requests of the classes FLEX and BATCH get much only while no interactive request is present, and next to
nothing otherwise. `domain.policies.admission` asks for the allowance before it admits such a request, and again
every POLL_S while one waits, so that an allowance may change at any time and for any reason.
"""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple, Protocol

import msgspec
from msgspec import Meta

from domain.load import Bounds
from domain.service_class import ServiceClass

POLL_S = 0.02
"""How often admission asks while a request of a class that gives way waits."""
QUIET_S = 0.5
"""Interactive requests count as present until this long after the last one, because closed-loop clients pause
between their requests."""
RAMP_S = 1.0
"""How long the allowance then takes to grow from nothing to its ceiling."""
CEILING = 0.75
"""Share of the bounds and of the engine's sequences that FLEX and BATCH may use together. The rest stays free for
interactive requests, so that those need not wait for a long batch request to end."""
FLEX_BUSY_RUNNING = 1
"""FLEX requests that may run while interactive requests are present."""


class BatchRules(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the class BATCH."""

    busy_running: Annotated[
        float,
        Meta(
            ge=0,
            le=9999,
            description="Batch requests that each engine runs while interactive requests are present. A fraction"
            " is a share of the time: 0.02 lets one request run for a fiftieth of it.",
        ),
    ] = 0.02


class Allowance(NamedTuple):
    """What the requests of one class may use together."""

    running: int
    """Requests. The first one may have any number of tokens."""
    tokens: float
    """Estimated tokens."""


NOTHING = Allowance(0, 0)


class AllowancePolicy(Protocol):
    """Decides the allowances of one role. All times are seconds of one monotonic clock."""

    def engine_started(self, max_sequences: int | None) -> None:
        """Called when the engine has started, which computes so many sequences at a time; None if unknown."""
        ...

    def ceiling(self) -> Allowance:
        """What FLEX and BATCH may use together at most."""
        ...

    def allowance(self, service_class: ServiceClass, now: float) -> Allowance:
        """What a class, FLEX or BATCH, may use now. Cheap."""
        ...

    def ended(self, service_class: ServiceClass, began: float, now: float) -> None:
        """Called when a request of FLEX or BATCH has ended, which was admitted at `began`."""
        ...


class InteractiveActivity:
    """Knows when interactive requests were last present, in any of the roles that share it."""

    def __init__(self) -> None:
        self.last = -math.inf
        """When the last interactive request ended, in seconds of `time.monotonic`; set by admission."""
        self.sources: list[Callable[[], int]] = []
        """Functions that return the interactive requests of a role, running and waiting."""

    def quiet_s(self, now: float) -> float:
        """Seconds since an interactive request was last present; 0 if one is now, infinity if none ever was."""
        if any(source() for source in self.sources):
            self.last = now
            return 0.0
        return now - self.last


class YieldingPolicy:
    """Allows a little while interactive requests are present, and more each moment once they are not.

    Engines of different roles share a GPU or a CPU, so they also share an `InteractiveActivity`.
    """

    def __init__(self, bounds: Bounds, activity: InteractiveActivity, rules: BatchRules) -> None:
        """Make the policy.

        Args:
            bounds: bounds of the role for all classes.
            activity: of the interactive requests to which this role gives way.
            rules: settings.
        """
        self._activity = activity
        self._bounds = bounds
        self._ceiling = self._ceiling_for(bounds.max_running)
        self._busy_running = rules.busy_running
        self._busy_since: float | None = None
        self._pause_until = -math.inf

    def engine_started(self, max_sequences: int | None) -> None:
        """See `AllowancePolicy`."""
        most = self._bounds.max_running
        self._ceiling = self._ceiling_for(most if max_sequences is None else min(most, max_sequences))

    def _ceiling_for(self, running: int) -> Allowance:
        return Allowance(max(1, int(running * CEILING)), self._bounds.max_running_tokens * CEILING)

    def ceiling(self) -> Allowance:
        """See `AllowancePolicy`."""
        return self._ceiling

    def allowance(self, service_class: ServiceClass, now: float) -> Allowance:
        """See `AllowancePolicy`."""
        quiet_s = self._activity.quiet_s(now) - QUIET_S
        if quiet_s < 0:
            if self._busy_since is None:
                self._busy_since = now
            return self._while_busy(service_class, now)
        self._busy_since, self._pause_until = None, -math.inf
        share = min(1.0, quiet_s / RAMP_S)
        return Allowance(max(1, int(self._ceiling.running * share)), self._ceiling.tokens * share)

    def ended(self, service_class: ServiceClass, began: float, now: float) -> None:
        """See `AllowancePolicy`."""
        is_counted = self._busy_since is not None and began >= self._busy_since
        if service_class is ServiceClass.BATCH and is_counted and 0 < self._busy_running < 1:
            # It ran alone; it may run again once its time is no more than its share of all time.
            self._pause_until = now + (now - began) * (1 / self._busy_running - 1)

    def _while_busy(self, service_class: ServiceClass, now: float) -> Allowance:
        if service_class is ServiceClass.FLEX:
            return Allowance(FLEX_BUSY_RUNNING, self._ceiling.tokens)
        if self._busy_running >= 1:
            return Allowance(int(self._busy_running), self._ceiling.tokens)
        if not self._busy_running or now < self._pause_until:
            return NOTHING
        return Allowance(1, self._ceiling.tokens)
