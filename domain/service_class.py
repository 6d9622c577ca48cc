"""Classes of service: which requests give way to which."""

import enum
from typing import Literal

FLEX_TIER: Literal["flex"] = "flex"
"""The `service_tier` of the class FLEX."""


class ServiceClass(enum.IntEnum):
    """How urgent a request is; a smaller value goes first, in vLLM too."""

    INTERACTIVE = 0
    """Someone waits for the answer."""
    FLEX = 1
    """`service_tier: "flex"`: runs in what interactive requests leave, and before batches."""
    BATCH = 2
    """A line of a batch: runs in what all others leave."""


def class_of_tier(tier: str | None) -> ServiceClass:
    """The class of a request with this `service_tier`; None if it has none."""
    return ServiceClass.FLEX if tier == FLEX_TIER else ServiceClass.INTERACTIVE
