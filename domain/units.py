"""Units of bytes."""

KIB, MIB, GIB = 2**10, 2**20, 2**30


def size(amount: float) -> str:
    """Format bytes for humans, in a unit in which they are not 0."""
    if amount >= GIB:
        return f"{amount / GIB:.1f} GiB"
    return f"{amount / MIB:.0f} MiB" if amount >= MIB else f"{amount / KIB:.0f} KiB"
