"""The composition root: wraps the engines that `app.engines` builds in policies, and puts the API in front.

Each role's stack, outermost first:

    SupervisionBackend                  rejects requests until the engine has answered one; restarts it
    └── ObservedBackend                 reports each call to the request's observer
        └── DeadlineBackend             aborts requests that take too long, waiting included
            └── SplittingBackend        scores many pairs in parts
                └── AdmissionBackend    limits the running and waiting requests
                    └── EmbeddingScores     embed: scores pairs by their vectors
                        └── CachingBackend      embed, if EMBED_CACHE is set: vectors of earlier requests
                            └── BatchingBackend     embed, over HTTP or if EMBED_JOIN=true: joins requests
                                └── the adapter     vllm-inprocess | vllm-http | a custom factory

Over HTTP the adapter is also a stack (`adapters.vllm.http.provider`): RetryingBackend, BalancingBackend if there
are several servers, and for each server a Member with its circuit breaker around VLLMHTTPBackend.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.models.hardware import gpu_memory, usable_gpu
from adapters.state.provider import Stores
from app.batches.service import BatchesService, BatchResources
from app.batches.tools import RunnerOptions
from app.engines import Named, build_backends
from app.files.service import FilesService
from app.http.asgi import Application, create_app
from app.http.authentication import build_api_keys
from app.responses.service import ResponsesService
from app.service import Service
from app.settings import HTTP, Settings
from app.store import build_files, build_stores
from app.telemetry.history import History
from app.telemetry.observed_backend import ObservedBackend
from app.telemetry.setup import build_metrics, build_telemetry, build_tracing
from domain.catalog import ModelCatalog, ServedModel
from domain.health import MemoryMeter
from domain.policies.admission import AdmissionBackend
from domain.policies.allowance import InteractiveActivity, YieldingPolicy
from domain.policies.balancing import BalancingBackend
from domain.policies.batching import BatchingBackend
from domain.policies.deadline import DeadlineBackend
from domain.policies.embedding_cache import CachingBackend
from domain.policies.embedding_scores import EmbeddingScores
from domain.policies.member import ServerGroup
from domain.policies.splitting import SplittingBackend
from domain.policies.supervision import StateListener, SupervisionBackend
from domain.policies.token_bucket import Clock
from domain.policies.wrapper import layer
from domain.port import InferenceBackend
from domain.progress import Progress, ignore_progress
from domain.roles import Role
from domain.service_class import ServiceClass

if TYPE_CHECKING:
    from app.telemetry.tracing import Tracing


def build_app(
    settings: Settings,
    backends: dict[Role, Named] | None = None,
    *,
    progress: Progress = ignore_progress,
    on_change: StateListener = lambda _role, _health: None,
    metrics_folder: Path | None = None,
    wait_s: float = 0.0,
    clock: Clock = time.monotonic,
) -> Application:
    """Build the application, for the command line, the API processes and the tests.

    Nothing is started yet; entering the application's lifespan starts the service.

    Args:
        settings: the configuration.
        backends: used instead of the backends that the settings name, for tests.
        progress: called while models are prepared and engines configured.
        on_change: called whenever a role's state changes.
        metrics_folder: where several processes of this service share their metrics; None for one process.
        wait_s: longest wait for the backends, in seconds, before connections are accepted.
        clock: time source of the rate limits.

    Raises:
        ConfigurationError: a setting names something that does not exist or can't work here.
    """
    api_keys = build_api_keys(settings, clock=clock)
    tracing = build_tracing(settings)
    service = build_service(settings, backends=backends, progress=progress, on_change=on_change, tracing=tracing)
    history = History()
    stores = build_stores(settings.state)
    files = build_files(stores, settings.files, settings.state) if stores is not None else None
    batches = build_batches(settings, stores, files, service)
    metrics = build_metrics(settings, service, batches=batches, folder=metrics_folder)
    return create_app(
        service,
        settings.api,
        responses=ResponsesService(stores.state if stores is not None else None),
        files=files,
        batches=batches,
        api_keys=api_keys,
        cors_origins=settings.security.cors_origins,
        telemetry=build_telemetry(settings, tracing, metrics, history),
        metrics=metrics,
        history=history,
        wait_s=wait_s,
    )


def build_batches(
    settings: Settings, stores: Stores | None, files: FilesService | None, service: Service
) -> BatchesService:
    """Build what runs batches, without starting it."""
    own = settings.batches
    if stores is None or files is None or not own.is_on:
        name = "STATE" if stores is None else "BATCHES"
        return BatchesService(None, off=f"They can't be kept here, because {name} is off. Set {name}=on.")
    resources = BatchResources(
        batches=stores.batches,
        files=stores.files,
        contents=files.storage.contents,
        catalog=service.catalog,
        bounds={role: each.bounds for role, each in settings.roles.items()},
        waiting=lambda role: service.waiting(role, ServiceClass.BATCH),
        is_serving=service.is_serving,
        options=RunnerOptions(
            max_lines=own.max_lines,
            skips_invalid=own.skips_invalid,
            max_line_bytes=settings.api.max_body_bytes,
            allow_unknown=settings.api.allow_unknown_fields,
            is_strict=settings.api.strict_tools,
        ),
        max_unfinished=own.max_unfinished,
        concurrency=own.concurrency,
    )
    return BatchesService(resources)


def build_service(
    settings: Settings,
    *,
    backends: dict[Role, Named] | None = None,
    progress: Progress = ignore_progress,
    on_change: StateListener = lambda _role, _health: None,
    tracing: "Tracing | None" = None,
) -> Service:
    """Build the service without starting it.

    Args:
        settings: the configuration.
        backends: used instead of the backends that the settings name, for tests.
        progress: called while models are prepared and engines configured.
        on_change: called whenever a role's state changes.
        tracing: creates spans for requests to servers.

    Raises:
        ConfigurationError: a setting names something that does not exist or can't work here.
    """
    engines = backends or build_backends(settings, progress=progress, tracing=tracing)
    engines = {role: engine for role, engine in engines.items() if role in settings.roles}
    cache = None
    if Role.EMBED in engines:
        name, embedder = engines[Role.EMBED]
        embedder, cache = _with_policies(embedder, settings)
        engines[Role.EMBED] = (name, embedder)
    admissions = _admissions(engines, settings)
    models = [
        ServedModel(
            SupervisionBackend(
                ObservedBackend(
                    DeadlineBackend(SplittingBackend(admissions[role]), timeout_s=settings.request_timeout_s),
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
        gpu=gpu_memory if usable_gpu() is not None else None,
        meters={
            role: meter.memory
            for role, (_name, backend) in engines.items()
            if (meter := layer(backend, MemoryMeter)) is not None
        },
    )


def _admissions(engines: dict[Role, Named], settings: Settings) -> dict[Role, AdmissionBackend]:
    """Wrap each engine in its admission. Batches of any role give way to the interactive requests of all roles."""
    activity = InteractiveActivity()
    return {
        role: AdmissionBackend(
            backend,
            bounds := settings.role(role).bounds,
            activity=activity,
            policy=YieldingPolicy(bounds, activity, settings.batch_rules),
        )
        for role, (_name, backend) in engines.items()
    }


def _with_policies(
    backend: InferenceBackend, settings: Settings
) -> tuple[InferenceBackend, CachingBackend | None]:
    """Wrap the embedding engine in the policies that the settings choose; also return the cache, if any."""
    policies = settings.embedding_policies
    if policies.join or (policies.join is None and settings.role(Role.EMBED).backend == HTTP):
        # One call per server; with fewer, servers would be idle.
        group = layer(backend, ServerGroup)
        backend = BatchingBackend(backend, max_calls=len(group.members()) if group is not None else 1)
    if not policies.cache_bytes:
        return EmbeddingScores(backend), None
    cache = CachingBackend(backend, max_bytes=policies.cache_bytes)
    balancer = layer(backend, BalancingBackend)
    if balancer is not None:
        balancer.on_readmit = cache.clear
    return EmbeddingScores(cache), cache
