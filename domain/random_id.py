"""Ids that tell things apart, and are no secret."""

import random


def random_hex() -> str:
    """32 random hexadecimal digits, without asking the kernel for each, which `uuid4` does."""
    return random.randbytes(16).hex()
