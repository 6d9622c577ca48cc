"""What is known of a model without loading it."""

from pathlib import Path
from typing import Literal

import msgspec

from domain.roles import Role

Origin = Literal["folder", "package", "hub"]


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model that exists, and what its files say."""

    name: str
    origin: Origin
    config: dict[str, object] = {}
    """Its config.json; empty while it has not been fetched."""
    has_chat_template: bool | None = None
    """None while that is not known."""
    is_sentence_encoder: bool = False
    """Whether its modules.json says that it was trained for embeddings."""
    package_role: Role | None = None
    """The role of a packaged model."""
    weight_bytes: int | None = None
    """Of its weights as they are stored, here or on the hub; None if that is not known."""
    fetch_bytes: int = 0
    """What is still to be fetched."""
    fetch_into: Path = Path()
    """The folder for what is fetched."""
    hub_answers: bool | None = None
    """None if the hub was not asked."""
    source: str | None = None
    """Where its shape can be read now without a request to the hub; None while it has to be fetched first."""
