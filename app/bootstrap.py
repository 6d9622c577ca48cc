"""The composition root: the one place that knows which adapter stands behind the port.

Each role's stack, outermost first:

    ReadinessBackend                    turns requests away until the engine has answered one; restarts it
    └── ObservedBackend                 tells who watches a request of each call
        └── DeadlineBackend             aborts what takes too long, waiting included
            └── AdmissionBackend        bounds what the engine has to do at a time and what waits
                └── CachingBackend      embed, if EMBED_CACHE gives it memory: vectors that were asked for before
                    └── BatchingBackend embed, over HTTP or if EMBED_JOIN says so: several requests, one call
                        └── the adapter     vllm-inprocess | vllm-http | a factory of the user's own

Over HTTP the adapter is a stack too (`adapters.vllm.http.servers`): RetryingBackend, BalancingBackend if there are
several servers, and for each server a Member with its circuit breaker around VLLMHTTPBackend.
"""

import asyncio
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil

from adapters.models.hardware import gpu_memory, usable_gpu_gib
from adapters.models.locate import LocatedModel, default_model, locate
from adapters.models.packaged import Progress
from adapters.vllm.http.servers import ServerOptions, servers
from adapters.vllm.http.tracing import TracedTransport
from adapters.vllm.http.transport import PooledTransport
from adapters.vllm.inprocess.engine_args import default_flags, engine_setup, prepare_environment, trace_flags
from app.commands.plan.composition import plan_service
from app.http.asgi import Application, create_app
from app.http.authentication import build_api_keys
from app.service import Service
from app.settings import HTTP, INPROCESS, GpuMemory, RoleSettings, Settings
from app.telemetry import log
from app.telemetry.history import History
from app.telemetry.observed_backend import ObservedBackend
from app.telemetry.setup import build_metrics, build_telemetry, build_tracing, has_metrics
from domain.catalog import ModelCatalog, ServedModel
from domain.errors import ConfigurationError
from domain.health import MemoryMeter
from domain.policies.admission import AdmissionBackend
from domain.policies.balancing import BalancingBackend
from domain.policies.batching import BatchingBackend
from domain.policies.deadline import DeadlineBackend
from domain.policies.embedding_cache import CachingBackend
from domain.policies.member import ServerGroup
from domain.policies.rate_limit import Clock
from domain.policies.readiness import ReadinessBackend, StateListener
from domain.policies.wrapper import layer
from domain.port import InferenceBackend
from domain.roles import ROLES, Role

if TYPE_CHECKING:
    from app.telemetry.tracing import Tracing

# Shares of the card for an engine that no setting gives one: where no plan can be made, and for an engine that is
# alone here, because the other may be on the same card and nobody of this service's.
DEFAULT_GPU_SHARE = {Role.EMBED: 0.25, Role.GENERATE: 0.65}
# What an engine takes on the CPU at the least, where no plan can be made.
CPU_ENGINE_GIB = 2.0

Factory = Callable[[Role, Settings], InferenceBackend]
Named = tuple[str | None, InferenceBackend]
"""A backend and its model's name for clients, None while only a server far away knows it."""


def build_app(
    settings: Settings,
    backends: dict[Role, Named] | None = None,
    *,
    progress: Progress = lambda _step, _share: None,
    on_change: StateListener = lambda _role, _health: None,
    metrics_folder: Path | None = None,
    wait_s: float = 0.0,
    clock: Clock = time.monotonic,
) -> Application:
    """The whole application: the one way in, for the command line, the worker processes and the tests.

    Nothing of it has started; entering its lifespan starts the service.

    Args:
        settings: the configuration.
        backends: replaces the backends that the settings name, for tests.
        progress: called while models are prepared and engines configured.
        on_change: called with every change of a role's state.
        metrics_folder: where several processes of this service share their metrics; None for one process.
        wait_s: seconds to wait at most for the backends before connections are accepted.
        clock: tells the time to the limits of API keys.

    Raises:
        ConfigurationError: a setting names something that does not exist or can't work here.
    """
    api_keys = build_api_keys(settings, clock=clock)
    tracing = build_tracing(settings)
    service = build_service(settings, backends=backends, progress=progress, on_change=on_change, tracing=tracing)
    metrics = build_metrics(settings, service, folder=metrics_folder)
    history = History()
    return create_app(
        service,
        settings.api,
        api_keys=api_keys,
        cors_origins=settings.security.cors_origins,
        telemetry=build_telemetry(settings, tracing, metrics, history),
        metrics=metrics,
        history=history,
        wait_s=wait_s,
    )


def build_service(
    settings: Settings,
    *,
    backends: dict[Role, Named] | None = None,
    progress: Progress = lambda _step, _share: None,
    on_change: StateListener = lambda _role, _health: None,
    tracing: "Tracing | None" = None,
) -> Service:
    """The whole service, nothing of it started.

    Args:
        settings: the configuration.
        backends: replaces the backends that the settings name, for tests.
        progress: told while models are prepared and engines configured.
        on_change: told of every change of a role's state.
        tracing: makes spans of requests to servers.

    Raises:
        ConfigurationError: a setting names something that does not exist or can't work here.
    """
    engines = backends or _backends(settings, progress, tracing)
    engines = {role: engine for role, engine in engines.items() if role in settings.roles}
    cache = None
    if Role.EMBED in engines:
        name, embedder = engines[Role.EMBED]
        embedder, cache = _with_policies(embedder, settings)
        engines[Role.EMBED] = (name, embedder)
    admissions = {
        role: AdmissionBackend(backend, settings.role(role).bounds) for role, (_name, backend) in engines.items()
    }
    models = [
        ServedModel(
            ReadinessBackend(
                ObservedBackend(
                    DeadlineBackend(admissions[role], timeout_s=settings.request_timeout_s),
                    role,
                    model=name,
                    captures_content=settings.telemetry.capture_content,
                ),
                role,
                model=name,
                on_change=on_change,
            ),
            name=name,
            aliases=settings.role(role).aliases,
        )
        for role, (name, _backend) in engines.items()
    ]
    return Service(
        {model.role: model.backend for model in models},
        ModelCatalog(models, created=int(time.time())),
        admissions=admissions,
        cache=cache,
        gpu=gpu_memory if usable_gpu_gib() is not None else None,
        meters={
            role: meter.memory
            for role, (_name, backend) in engines.items()
            if (meter := layer(backend, MemoryMeter)) is not None
        },
    )


def prepare_models(settings: Settings, progress: Progress) -> dict[Role, LocatedModel]:
    """The models of all roles that are switched on, found and prepared, whatever backend serves them.

    Raises:
        ConfigurationError: a model does not exist.
    """
    gpu_gib = usable_gpu_gib()
    return {role: _locate(role, settings, gpu_gib, progress) for role in settings.roles}


def tiny_models(cache: Path) -> dict[Role, Path]:
    """Folders of two tiny models with random weights, made if they are not there: for measurements.

    Raises:
        ConfigurationError: they can't be made, because vLLM is not installed.
    """
    folders = {Role.EMBED: cache / "tiny" / "tiny-embed", Role.GENERATE: cache / "tiny" / "tiny-gen"}
    if not all((folder / "model.safetensors").exists() for folder in folders.values()):
        try:
            from tools.tiny_models import make_tiny_models

            make_tiny_models(cache / "tiny")
        except ImportError as error:
            raise ConfigurationError(
                f"Tiny models can't be made here ({error}). Install vLLM with `make install INSTALL=cpu` (or gpu)."
            ) from error
    return folders


def _with_policies(
    backend: InferenceBackend, settings: Settings
) -> tuple[InferenceBackend, CachingBackend | None]:
    """The embedding engine with what was chosen to stand before it, and the cache, if there is one."""
    policies = settings.embedding_policies
    if policies.join or (policies.join is None and settings.role(Role.EMBED).backend == HTTP):
        # One call for each server, or all but one of them would stand idle.
        group = layer(backend, ServerGroup)
        backend = BatchingBackend(backend, max_calls=len(group.members()) if group is not None else 1)
    if not policies.cache_bytes:
        return backend, None
    cache = CachingBackend(backend, max_bytes=policies.cache_bytes)
    balancer = layer(backend, BalancingBackend)
    if balancer is not None:
        balancer.on_return = cache.forget
    return cache, cache


def _backends(settings: Settings, progress: Progress, tracing: "Tracing | None") -> dict[Role, Named]:
    inprocess = [role for role, own in settings.roles.items() if own.backend == INPROCESS]
    built = _inprocess_backends(inprocess, settings, progress) if inprocess else {}
    for role, own in settings.roles.items():
        if own.backend == HTTP:
            built[role] = (own.model, _servers(role, settings, tracing))
        elif own.backend != INPROCESS:
            built[role] = (own.model, _load_factory(role, own)(role, settings))
    return {role: built[role] for role in settings.roles}


def _servers(role: Role, settings: Settings, tracing: "Tracing | None") -> InferenceBackend:
    own = settings.role(role)

    def traced_transport() -> TracedTransport:
        assert tracing is not None
        return TracedTransport(PooledTransport(), tracing.provider)

    options = ServerOptions(
        model=own.model,
        api_key=own.api_key,
        tokenizer=own.tokenizer,
        fault_tolerance=settings.http,
        transport=traced_transport if tracing is not None else None,
    )
    return servers(role, own.urls, options, setting=f"VLLM_{ROLES[role].prefix}_URL")


def _inprocess_backends(roles: list[Role], settings: Settings, progress: Progress) -> dict[Role, Named]:
    gpu_gib = usable_gpu_gib()
    on_gpu = gpu_gib is not None
    models = {role: _locate(role, settings, gpu_gib, progress) for role in roles}
    plan = plan_service(models, settings, gpu_gib, lone_share=DEFAULT_GPU_SHARE)
    if plan is None and not on_gpu:
        _require_memory(roles)
    prepare_environment(
        log_level=settings.engine_log_level,
        offline=all(model.is_local for model in models.values()),
        on_gpu=on_gpu,
    )
    progress("loading vLLM", None)
    try:
        from adapters.vllm.inprocess.backend import VLLMInProcessBackend
    except ImportError as error:
        setting = f"{ROLES[roles[0]].prefix}_BACKEND"
        raise ConfigurationError(
            f"{setting} is {INPROCESS}, but vLLM can't be loaded here ({error}). Install it "
            f"with `make install INSTALL=cpu` (or gpu), or set {setting}={HTTP}."
        ) from error
    log.adopt_engine_library()
    # One after the other on one card: without a plan each measures what is free, and with one there is little left
    # for two that reach their peaks at once.
    start_lock = asyncio.Lock() if on_gpu else None
    built: dict[Role, Named] = {}
    for role, model in models.items():
        engine = plan.engine(role) if plan is not None else None
        setup = engine_setup(
            role=role,
            model=model.source,
            served_name=model.name,
            defaults=[
                *default_flags(
                    on_gpu=on_gpu,
                    plan=engine,
                    gpu_share=_gpu_share(role, settings.role(role), gpu_gib),
                    context=settings.role(role).max_model_len,
                ),
                *trace_flags(settings.telemetry.traces.endpoint if settings.telemetry.traces else None),
            ],
            flags=settings.role(role).args,
            setting=f"VLLM_{ROLES[role].prefix}_ARGS",
        )
        backend = VLLMInProcessBackend(
            role=role,
            name=model.name,
            setup=setup,
            start_lock=start_lock,
            hang_s=settings.hang_timeout_s,
            counts=settings.telemetry.engine_metrics and has_metrics(settings),
            memory_plan=engine,
        )
        built[role] = (model.name, backend)
    return built


def _locate(role: Role, settings: Settings, gpu_gib: float | None, progress: Progress) -> LocatedModel:
    name = settings.role(role).model or default_model(role, gpu_gib)
    return locate(name, setting=f"MODEL_{ROLES[role].prefix}_NAME", cache=settings.cache_dir, progress=progress)


def _require_memory(roles: list[Role]) -> None:
    needed = CPU_ENGINE_GIB * len(roles)
    available = psutil.virtual_memory().available / 2**30
    if available < needed:
        raise ConfigurationError(
            f"{available:.1f} GiB of memory are available, and {len(roles)} engine(s) on the CPU need at least "
            f"{needed:.0f} GiB. Close other programs, or run the engines elsewhere with "
            f"{' and '.join(f'{ROLES[role].prefix}_BACKEND={HTTP}' for role in roles)}."
        )


def _gpu_share(role: Role, own: RoleSettings, gpu_gib: float | None) -> float | None:
    """The share without a plan."""
    if gpu_gib is None:
        return None
    wanted = own.gpu_memory or GpuMemory(fraction=DEFAULT_GPU_SHARE[role])
    share = wanted.fraction if wanted.fraction is not None else (wanted.gib or 0.0) / gpu_gib
    if share >= 1:
        raise ConfigurationError(
            f"VLLM_{ROLES[role].prefix}_GPU_MEMORY asks for {wanted.gib} GiB, and the card has {gpu_gib:.1f} GiB."
        )
    return round(share, 4)


def _load_factory(role: Role, own: RoleSettings) -> Factory:
    """The user's own factory: called with the role and the settings, it returns a backend."""
    module_name, _, attribute = own.backend.replace(":", ".").rpartition(".")
    try:
        return cast(Factory, getattr(importlib.import_module(module_name), attribute))
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{ROLES[role].prefix}_BACKEND is '{own.backend}', which can't be loaded: {error}."
        ) from error
