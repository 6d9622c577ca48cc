"""A served model as OpenAI lists it (OpenAI's schema `Model`)."""

from typing import Literal

import msgspec

from domain.port import ModelCard


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One served model. `max_model_len` is vLLM's addition, which several clients read, as they do its owner."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "vllm"
    max_model_len: int | None | msgspec.UnsetType = msgspec.UNSET


def model_object(card: ModelCard, name: str | None = None) -> Model:
    """The API's model object for a card, under its own name or an alias."""
    limit = card.max_model_len if card.max_model_len is not None else msgspec.UNSET
    return Model(id=name or card.name, created=card.created, max_model_len=limit)
