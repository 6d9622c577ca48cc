"""Response schemas of `GET /v1/models` and `GET /v1/models/{id}` (OpenAI's `Model` and `ListModelsResponse`)."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from domain.port import ModelCard


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One served model. `max_model_len` is vLLM's addition, which several clients read."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "memoria-vllm"
    max_model_len: int | None | msgspec.UnsetType = msgspec.UNSET


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[Model]


def model_object(card: ModelCard, name: str | None = None) -> Model:
    """The API's model object for a card, under its own name or an alias."""
    limit = card.max_model_len if card.max_model_len is not None else msgspec.UNSET
    return Model(id=name or card.name, created=card.created, max_model_len=limit)


def model_list(models: Iterable[Model]) -> ModelList:
    """The list object around models."""
    return ModelList(data=list(models))
