"""What `nvidia-smi` tells of the first NVIDIA GPU beside its memory."""

import msgspec

from adapters.models import nvidia_smi
from adapters.models.hardware import MIB, ram

FIELDS = "name,driver_version,memory.total,memory.free,compute_cap"


class CardFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A card as its driver describes it."""

    name: str
    driver: str
    capability: tuple[int, int] | None
    """None from drivers that do not know the word."""
    total_bytes: int
    free_bytes: int


def first_card() -> CardFacts | None:
    """The first card, or None if there is none or its driver does not answer."""
    # Drivers before 510 refuse a query with a field that they do not know.
    return _ask(FIELDS) or _ask(FIELDS.removesuffix(",compute_cap"))


def _ask(fields: str) -> CardFacts | None:
    found = nvidia_smi.ask(f"--query-gpu={fields}")
    return _card(*found[0]) if found and len(found[0]) == fields.count(",") + 1 else None


def _card(name: str, driver: str, total: str, free: str, capability: str = "") -> CardFacts:
    if total.isdigit() and free.isdigit():
        total_bytes, free_bytes = int(total) * MIB, int(free) * MIB
    else:
        # It has none of its own.
        shared = ram()
        total_bytes, free_bytes = shared.total_bytes, shared.total_bytes - shared.used_bytes
    return CardFacts(
        name=name,
        driver=driver,
        capability=_capability(capability),
        total_bytes=total_bytes,
        free_bytes=free_bytes,
    )


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
