"""Facts about a model that are known without loading it."""

from pathlib import Path
from typing import Literal

import msgspec

from domain.roles import Role

Origin = Literal["folder", "package", "hub"]


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An existing model, as described by its files."""

    name: str
    origin: Origin
    config: dict[str, object] = {}
    """Its config.json; empty if it has not been fetched yet."""
    has_chat_template: bool | None = None
    """None if unknown."""
    is_sentence_encoder: bool = False
    """Whether its modules.json marks it as trained for embeddings."""
    package_role: Role | None = None
    """The role of a packaged model."""
    weight_bytes: int | None = None
    """Size of its weights as stored, locally or on the hub; None if unknown."""
    fetch_bytes: int = 0
    """Size of the files that still have to be fetched."""
    fetch_into: Path = Path()
    """The folder for fetched files."""
    hub_answers: bool | None = None
    """Whether the hub answered; None if no request was sent to it."""
    source: str | None = None
    """Where its shape can be read without a request to the hub; None if it has to be fetched first."""


def is_sentence_encoder(modules: str) -> bool:
    """Whether a modules.json of sentence-transformers is that of an embedding model, which pools its tokens.

    Rerankers have such a file too.
    """
    return "Pooling" in modules
