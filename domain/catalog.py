"""Model catalog: maps model names and aliases to backends."""

from collections.abc import Iterable
from typing import Any

from domain.errors import BackendUnavailableError, ModelNotFoundError, WrongEndpointError
from domain.openai.models import Model, model_object
from domain.policies.supervision import RETRY_AFTER_S, SupervisionBackend
from domain.requests import GenerationRequest, Request
from domain.roles import ROLES, Role

MAX_SHOWN_NAME = 200
"""Characters of an unknown model's name that an error message includes."""


class ServedModel:
    """One role's backend and the model names that select it."""

    def __init__(self, backend: SupervisionBackend, *, name: str | None, aliases: tuple[str, ...] = ()) -> None:
        self.backend = backend
        self._name = name
        self._aliases = aliases

    @property
    def role(self) -> Role:
        """The model's role."""
        return self.backend.role

    @property
    def name(self) -> str | None:
        """The model's own name; None if only the engine knows it and has not started yet."""
        card = self.backend.card
        return card.name if card is not None else self._name

    @property
    def names(self) -> tuple[str, ...]:
        """The model's own name, then its aliases."""
        own = () if self.name is None else (self.name,)
        return own + tuple(alias for alias in self._aliases if alias not in own)

    def require_room(self, requests: Iterable[Request[Any]]) -> None:
        """Raise ContextLengthError if an answer alone is longer than the context length.

        The engine would reject such a request too, but only after it has waited for its turn and has been charged
        to its key.
        """
        card = self.backend.card
        limit = card.max_model_len if card is not None else None
        for request in requests:
            if limit is not None and isinstance(request, GenerationRequest):
                request.require_room(limit)


class ModelCatalog:
    """All served models."""

    def __init__(self, models: list[ServedModel], *, created: int) -> None:
        self._models = models
        self._created = created

    def resolve(self, name: str | None, *roles: Role, endpoint: str) -> ServedModel:
        """The model of this name, in one of these roles.

        Args:
            name: as the client wrote it; None for the model of the first role that is served.
            roles: the roles that the endpoint can use, the preferred one first.
            endpoint: such as `v1/embeddings`; for the error message.

        Raises:
            WrongEndpointError: the name belongs to a model of another role.
            ModelNotFoundError: no model has this name, or the roles are switched off.
            BackendUnavailableError: an engine that has not started yet may serve it.
        """
        for role in roles:
            for model in self._models:
                if model.role is role and (name is None or name in model.names):
                    return model
        for model in self._models:
            if name in model.names:
                info = ROLES[model.role]
                raise WrongEndpointError(
                    f"The model '{name}' is {info.article} {info.noun} model and not supported in the "
                    f"{endpoint} endpoint. Use it with {info.endpoints}.",
                    param="model",
                )
        self._require_enabled(*roles)
        raise self._not_found(name or "")

    def find(self, name: str | None) -> ServedModel:
        """The model of this name in any role; without a name, the generation model.

        Raises:
            ModelNotFoundError: no model has this name.
            BackendUnavailableError: an engine that has not started yet may serve it.
        """
        for model in self._models:
            if name in model.names or (name is None and model.role is Role.GENERATE):
                return model
        if name is None:
            self._require_enabled(Role.GENERATE)
        raise self._not_found(name or "")

    def own_names(self) -> set[str]:
        """The known names of the models, without aliases."""
        return {model.name for model in self._models if model.name is not None}

    def list(self, role: Role | None = None) -> list[Model]:
        """Every model of a role, or of any, under each of its names."""
        return [
            self._object(model, name)
            for model in self._models
            if role is None or model.role is role
            for name in model.names
        ]

    def get(self, name: str) -> Model:
        """The model of this name.

        Raises:
            ModelNotFoundError: no model has this name.
            BackendUnavailableError: an engine that has not started yet may serve it.
        """
        return self._object(self.find(name), name)

    def _require_enabled(self, *roles: Role) -> None:
        if all(model.role not in roles for model in self._models):
            # Without an optional model another one answers, so that is the one to enable.
            info = ROLES[roles[-1]]
            raise ModelNotFoundError(
                f"No {info.noun} model is served, because {info.prefix}_BACKEND is off. Set it to another "
                f"value to enable the {info.noun} model. {self._served()}".rstrip(),
                param="model",
            )

    def _object(self, model: ServedModel, name: str) -> Model:
        card = model.backend.card
        return model_object(card, name) if card else Model(id=name, created=self._created)

    def _not_found(self, name: str) -> ModelNotFoundError | BackendUnavailableError:
        if any(model.name is None for model in self._models):
            return BackendUnavailableError(
                "The engines are still starting, so the served models are not known yet. Please try again later.",
                retry_after_s=RETRY_AFTER_S,
            )
        return ModelNotFoundError(
            f"The model '{name[:MAX_SHOWN_NAME]}' does not exist or is not served here. {self._served()}",
            param="model",
        )

    def _served(self) -> str:
        names = [repr(model.name) for model in self._models if model.name is not None]
        return f"Served models: {', '.join(names)}." if names else ""
