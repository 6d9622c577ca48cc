"""Builds the engines that the settings name: passes each role's settings to the provider of its backend.

Part of the composition root, like `app.bootstrap`, which wraps the engines in policies.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from adapters.memory_planning import EngineOptions
from adapters.models.hardware import engine_card
from adapters.models.locate import LocatedModel, default_model
from adapters.vllm.http.provider import ServerOptions, build_servers
from adapters.vllm.inprocess.provider import InProcessOptions, InProcessProvider
from app.settings import HTTP, INPROCESS, RoleSettings, Settings
from app.telemetry import log
from app.telemetry.setup import has_metrics
from domain.errors import ConfigurationError
from domain.port import InferenceBackend
from domain.progress import Progress
from domain.roles import ROLES, Role

if TYPE_CHECKING:
    from app.telemetry.tracing import Tracing

Factory = Callable[[Role, Settings], InferenceBackend]
"""A custom factory: called with the role and the settings, it returns a backend."""
Named = tuple[str | None, InferenceBackend]
"""A backend and its model's name for clients; None while only the remote server knows the name."""


def build_backends(settings: Settings, *, progress: Progress, tracing: "Tracing | None") -> dict[Role, Named]:
    """Build the engine of each role, without starting it.

    Args:
        settings: the configuration.
        progress: called while models are prepared and engines configured.
        tracing: creates spans for requests to servers.

    Raises:
        ConfigurationError: a setting names something that does not exist or can't work here.
    """
    built: dict[Role, Named] = {}
    inprocess = inprocess_roles(settings)
    if inprocess:
        provider = inprocess_provider(settings, inprocess)
        built |= provider.build(progress, on_import=log.adopt_engine_library)
    for role, own in settings.roles.items():
        if own.backend == HTTP:
            built[role] = (own.model, build_servers(role, _server_options(own, settings, tracing)))
        elif own.backend != INPROCESS:
            built[role] = (own.model, load_factory(role, own.backend)(role, settings))
    return {role: built[role] for role in settings.roles}


def inprocess_roles(settings: Settings) -> list[Role]:
    """The roles whose engines run in this process."""
    return [role for role, own in settings.roles.items() if own.backend == INPROCESS]


def inprocess_provider(settings: Settings, roles: Iterable[Role]) -> InProcessProvider:
    """The provider of engines in this process, for the given roles, whichever backend the settings name."""
    traces = settings.telemetry.traces
    engines = {role: engine_options(settings.role(role)) for role in roles}
    return InProcessProvider(
        InProcessOptions(
            engines=engines,
            cache_dir=settings.cache_dir,
            shares_gpu=len(engines) < len(settings.roles),
            log_level=settings.engine_log_level,
            hang_s=settings.hang_timeout_s,
            counts=settings.telemetry.engine_metrics and has_metrics(settings),
            trace_endpoint=traces.endpoint if traces is not None else None,
        )
    )


def engine_options(own: RoleSettings) -> EngineOptions:
    """The options of one engine in process, from its settings."""
    return EngineOptions(model=own.model, flags=own.args, context=own.max_model_len, budget=own.gpu_memory)


def prepare_models(settings: Settings, progress: Progress) -> dict[Role, LocatedModel]:
    """Find and prepare the models of all roles that are switched on, whichever backend serves them.

    Raises:
        ConfigurationError: a model does not exist.
    """
    return inprocess_provider(settings, roles_with_models(settings)).locate(progress)


def roles_with_models(settings: Settings) -> list[Role]:
    """The roles whose models are known: an optional model on a server may have no name here.

    All roles if it is none, so that the error for a missing name follows.
    """
    known = [role for role, own in settings.roles.items() if own.model or not ROLES[role].is_optional]
    return known or list(settings.roles)


def default_model_name(role: Role) -> str:
    """The model that is chosen for this machine if the settings name none."""
    return default_model(role, engine_card())


def load_factory(role: Role, path: str) -> Factory:
    """Import a custom factory.

    Args:
        role: the role whose backend it creates, for messages.
        path: as `package.module.name` or `package.module:name`.

    Raises:
        ConfigurationError: it can't be imported.
    """
    module_name, _, attribute = path.replace(":", ".").rpartition(".")
    try:
        return cast(Factory, getattr(importlib.import_module(module_name), attribute))
    except Exception as error:  # A custom module may raise anything.
        raise ConfigurationError(
            f"{ROLES[role].prefix}_BACKEND is '{path}', which can't be loaded: {error}."
        ) from error


def _server_options(own: RoleSettings, settings: Settings, tracing: "Tracing | None") -> ServerOptions:
    return ServerOptions(
        urls=own.urls,
        model=own.model,
        api_key=own.api_key,
        tokenizer=own.tokenizer,
        fault_tolerance=settings.http,
        tracer_provider=tracing.provider if tracing is not None else None,
    )
