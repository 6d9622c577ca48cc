"""What can be set about the API itself, whatever engines stand behind it."""

import msgspec


class ApiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Chosen by settings, read by controllers."""

    max_body_bytes: int = 32 * 2**20
    """A larger request body gets status 413."""
    allow_unknown_fields: bool = False
    """Whether fields that the API does not know are passed over instead of refused."""
    keep_alive_s: float = 15.0
    """Silence, in seconds, after which a stream gets a comment; 0 for none."""
