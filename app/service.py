"""The service: starts, stops and drains all roles together, and reports their health."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec

from domain.catalog import ModelCatalog
from domain.errors import InferenceError
from domain.health import EngineMemory, GpuMemory, ServiceHealth, service_health, with_load
from domain.policies.admission import AdmissionBackend
from domain.policies.embedding_cache import CachingBackend
from domain.policies.supervision import SupervisionBackend
from domain.policies.wrapper import layer
from domain.roles import Role
from domain.service_class import ServiceClass

T = TypeVar("T")

MEMORY_INTERVAL_S = 5.0
log = logging.getLogger("memoria")


class Service:
    """All roles' backends, as the controllers use them."""

    def __init__(
        self,
        backends: dict[Role, SupervisionBackend],
        catalog: ModelCatalog,
        *,
        admissions: dict[Role, AdmissionBackend],
        cache: CachingBackend | None = None,
        gpu: Callable[[], GpuMemory | None] | None = None,
        meters: dict[Role, Callable[[], EngineMemory | None]] | None = None,
    ) -> None:
        """Create the service without starting it.

        Args:
            backends: by role, each with all its policies.
            catalog: maps model names to them.
            admissions: by role, the policy that reports the load.
            cache: the embedding cache, if there is one.
            gpu: reads the GPU's memory; takes some ten milliseconds. None without a GPU.
            meters: by role, reads the engine's memory, equally slowly; only for roles that can report it.
        """
        self.catalog = catalog
        self._cache = cache
        self._admissions = admissions
        self._backends = backends
        self._starts: list[asyncio.Task[None]] = []
        self._freezing: asyncio.Task[None] | None = None
        self._gpu = gpu
        self._gpu_memory: GpuMemory | None = None
        self._meters = meters or {}
        self._memory: dict[Role, EngineMemory | None] = {}
        self._watching_memory: asyncio.Task[None] | None = None

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that are switched on."""
        return tuple(self._backends)

    def start(self) -> None:
        """Start all backends in the background and return immediately, so that the API answers meanwhile."""
        self._starts = [
            asyncio.create_task(self._start(role, backend), name=f"start-{role}")
            for role, backend in self._backends.items()
        ]
        self._freezing = asyncio.create_task(self._freeze_objects(), name="freeze-objects")
        if self._gpu is not None or self._meters:
            self._watching_memory = asyncio.create_task(self._watch_memory(), name="watch-memory")

    async def wait_started(self, timeout_s: float) -> None:
        """Wait until all backends have started or failed to, but not longer than the timeout."""
        await asyncio.wait(self._starts, timeout=timeout_s)

    def drain(self) -> None:
        """Reject new requests from now on; running ones continue."""
        for backend in self._backends.values():
            backend.drain()

    def restart(self, role: Role) -> bool:
        """Restart a failed engine now; False if it has not failed."""
        return self._backends[role].restart()

    async def stop(self) -> None:
        """Stop all backends, including those that are still starting."""
        for background in (self._freezing, self._watching_memory):
            if background is not None:
                background.cancel()
        for task in self._starts:
            task.cancel()
        stops = [backend.stop() for backend in self._backends.values()]
        for result in await asyncio.gather(*stops, *self._starts, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a backend did not shut down cleanly", exc_info=result)

    def is_serving(self, role: Role) -> bool:
        """Whether an engine accepts requests."""
        return role in self._backends and self._backends[role].is_serving

    def waiting(self, role: Role, service_class: ServiceClass) -> int:
        """Requests of a class that wait for an engine; 0 for a role that is switched off."""
        admission = self._admissions.get(role)
        return admission.waiting(service_class) if admission is not None else 0

    def health(self) -> ServiceHealth:
        """The state of all roles. Cheap."""
        return service_health(
            {
                role: with_load(
                    msgspec.structs.replace(backend.health, memory=self._memory.get(role)),
                    self._admissions[role].load,
                )
                for role, backend in self._backends.items()
            },
            tasks=len(asyncio.all_tasks()),
            embedding_cache=self._cache.stats if self._cache is not None else None,
            gpu_memory=self._gpu_memory,
        )

    def layers(self, kind: type[T]) -> dict[Role, T]:
        """The outermost layer of a type below each role's admission policy, for roles that have one."""
        found = {role: layer(admission, kind) for role, admission in self._admissions.items()}
        return {role: each for role, each in found.items() if each is not None}

    async def _watch_memory(self) -> None:
        while True:
            # No request depends on it, and the next reading may succeed.
            with contextlib.suppress(OSError):
                if self._gpu is not None:
                    self._gpu_memory = await asyncio.to_thread(self._gpu)
                for role, read in self._meters.items():
                    self._memory[role] = await asyncio.to_thread(read)
            await asyncio.sleep(MEMORY_INTERVAL_S)

    async def _freeze_objects(self) -> None:
        """Once all backends have started, exclude the existing objects from garbage collection.

        An engine library has about a million objects. Each full collection traverses all of them, which delays
        every client by half a second.
        """
        await asyncio.gather(*self._starts, return_exceptions=True)
        gc.collect()
        gc.freeze()

    async def _start(self, role: Role, backend: SupervisionBackend) -> None:
        try:
            await backend.start()
        except InferenceError:
            # The backend's health holds the reason, and the console reports it from there.
            pass
        except Exception:
            log.exception("the %s backend failed to start unexpectedly", role)
