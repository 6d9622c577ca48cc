"""The two roles as one service: started together, stopped together, asked together how they are."""

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

T = TypeVar("T")

MEMORY_INTERVAL_S = 5.0
log = logging.getLogger("memoria")


class Service:
    """What the controllers work with."""

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
        """Make it; nothing starts yet.

        Args:
            backends: by role, each with all its policies.
            catalog: which model names lead to them.
            admissions: the policies that know what each has to do.
            cache: the cache of embeddings, if there is one.
            gpu: reads the card's memory, in some ten milliseconds; None without a card.
            meters: read what engines hold, as slowly, for the roles where somebody can tell.
        """
        self.catalog = catalog
        self._cache = cache
        self._admissions = admissions
        self._backends = backends
        self._starts: list[asyncio.Task[None]] = []
        self._settling: asyncio.Task[None] | None = None
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
        """Begin to bring all backends up, and return at once: the API answers meanwhile."""
        self._starts = [
            asyncio.create_task(self._start(role, backend), name=f"start-{role}")
            for role, backend in self._backends.items()
        ]
        self._settling = asyncio.create_task(self._settle(), name="settle")
        if self._gpu is not None or self._meters:
            self._watching_memory = asyncio.create_task(self._watch_memory(), name="watch-memory")

    async def wait_started(self, longest_s: float) -> None:
        """Until all backends have started or can't, but no longer than a while."""
        await asyncio.wait(self._starts, timeout=longest_s)

    def drain(self) -> None:
        """Take nothing new from now on; what is under way goes on."""
        for backend in self._backends.values():
            backend.drain()

    def restart(self, role: Role) -> bool:
        """Start a failed engine again now; False if it has not failed."""
        return self._backends[role].restart()

    async def stop(self) -> None:
        """End all backends, those still starting included."""
        for helper in (self._settling, self._watching_memory):
            if helper is not None:
                helper.cancel()
        for task in self._starts:
            task.cancel()
        stops = [backend.stop() for backend in self._backends.values()]
        for result in await asyncio.gather(*stops, *self._starts, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a backend did not stop in good order", exc_info=result)

    def health(self) -> ServiceHealth:
        """The state of all roles. Costs nothing."""
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
        """The outermost layer of a kind behind each role's admission, for roles that have one."""
        found = {role: layer(admission, kind) for role, admission in self._admissions.items()}
        return {role: each for role, each in found.items() if each is not None}

    async def _watch_memory(self) -> None:
        while True:
            # Nobody's requests depend on it: whatever goes wrong, the next look may go well.
            with contextlib.suppress(OSError):
                if self._gpu is not None:
                    self._gpu_memory = await asyncio.to_thread(self._gpu)
                for role, read in self._meters.items():
                    self._memory[role] = await asyncio.to_thread(read)
            await asyncio.sleep(MEMORY_INTERVAL_S)

    async def _settle(self) -> None:
        """When all have started, keep the garbage collector from what is there to stay.

        An engine library is some million objects. Each full collection looks at all of them, and every client
        waits for it, half a second at a time.
        """
        await asyncio.gather(*self._starts, return_exceptions=True)
        gc.collect()
        gc.freeze()

    async def _start(self, role: Role, backend: SupervisionBackend) -> None:
        try:
            await backend.start()
        except InferenceError:
            # What went wrong is in the backend's health, and told to the console from there.
            pass
        except Exception:
            log.exception("the %s backend broke off its start", role)
