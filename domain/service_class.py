"""Classes of service: which requests give way to which."""

import enum


class ServiceClass(enum.IntEnum):
    """How urgent a request is; a smaller value goes first."""

    INTERACTIVE = 0
    """Someone waits for the answer."""
    FLEX = 1
    """`service_tier: "flex"`: runs in what interactive requests leave, and before batches."""
    BATCH = 2
    """A line of a batch: runs in what all others leave."""
