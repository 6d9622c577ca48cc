"""Random ids that are unique, but not secret."""

import random


def random_hex() -> str:
    """32 random hexadecimal digits, without the system call per id that `uuid4` makes."""
    return random.randbytes(16).hex()
