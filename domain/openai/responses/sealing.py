"""Encodes text as `encrypted_content`, which a client keeps and sends back unread."""

import base64
import binascii

SEALED = "memoria-1:"
"""Begins the `encrypted_content` of items that this service has made."""


def seal(text: str) -> str:
    """Text as `encrypted_content`, which a client sends back. It is encoded, not secret: the client has it."""
    return SEALED + base64.b64encode(text.encode()).decode()


def unseal(content: str) -> str | None:
    """The text in `encrypted_content`, or None if another service has made it."""
    if not content.startswith(SEALED):
        return None
    try:
        return base64.b64decode(content[len(SEALED) :], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
