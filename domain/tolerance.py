"""Marks parts of request bodies that may hold what this service does not know.

Clients of some APIs send tools of the API's own, such as a web search, together with their functions, and expect a
service without them to pass them over.
"""

import msgspec

TOLERANT = "tolerant"

TOLERATES_UNKNOWN_TYPES = msgspec.Meta(extra={TOLERANT: True})
"""For the type of a list: members whose `type` is unknown are dropped instead of refused, unless STRICT_TOOLS is
set."""
