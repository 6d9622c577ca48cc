"""Builds the engines that run in this process, and reports in advance what it would build.

`memoria serve` builds the engines. The doctor and `memoria models` query the same provider for its models, the
memory plan and the shares without a plan. vLLM is imported only when engines are built.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from adapters.memory_planning import EngineOptions, plan_requirements, requirements
from adapters.models.hardware import engine_card
from adapters.models.inspection import inspect_model
from adapters.models.locate import LocatedModel, default_model, locate
from adapters.models.shape import UnknownShapeError
from adapters.vllm.inprocess.engine_args import (
    SCHEDULING_FLAGS,
    default_flags,
    engine_setup,
    prepare_environment,
    trace_flags,
)
from domain.errors import ConfigurationError
from domain.memory_plan import Card, EnginePlan, EngineRequirements, MemoryPlan, shortage
from domain.memory_plan.parts import reserve_bytes
from domain.model_facts import ModelFacts
from domain.port import InferenceBackend
from domain.progress import Progress
from domain.roles import ROLES, Role
from domain.units import GIB

logger = logging.getLogger("memoria")

CPU_ENGINE_GIB = 2.0
"""Minimum memory of an engine on the CPU if no plan can be made."""
MAX_SHARES = 0.9
"""Largest sum of the default shares of a GPU if no plan can be made."""


class InProcessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the engines in this process."""

    engines: Mapping[Role, EngineOptions]
    cache_dir: Path
    """Folder for prepared models."""
    shares_gpu: bool = False
    """Whether engines of this service outside this process may use the same GPU."""
    log_level: str = "error"
    """Level of vLLM's log."""
    hang_s: float = 30.0
    """Seconds without output or CPU time after which an engine with unfinished requests is considered hung."""
    counts: bool = False
    """Whether engines collect metrics."""
    trace_endpoint: str | None = None
    """OTLP endpoint for the engines' spans; None disables tracing."""


class InProcessProvider:
    """Plans and builds the engines of this process, from their settings and the machine's hardware."""

    def __init__(self, options: InProcessOptions) -> None:
        self.options = options
        self.card = engine_card()
        """The GPU or RAM that the engines share."""

    def model_name(self, role: Role) -> str:
        """The configured model, or else the default for this machine."""
        return self.options.engines[role].model or default_model(role, self.card)

    def inspect(self, role: Role) -> ModelFacts:
        """What can be known of a role's model without downloading it.

        Raises:
            ConfigurationError: the model does not exist.
        """
        return inspect_model(
            self.model_name(role), setting=_setting("MODEL_{}_NAME", role), cache=self.options.cache_dir
        )

    def locate(self, progress: Progress) -> dict[Role, LocatedModel]:
        """Find and prepare all models.

        Raises:
            ConfigurationError: a model does not exist.
        """
        return {
            role: locate(
                self.model_name(role),
                setting=_setting("MODEL_{}_NAME", role),
                cache=self.options.cache_dir,
                progress=progress,
            )
            for role in self.options.engines
        }

    def plan(self, models: Mapping[Role, LocatedModel]) -> MemoryPlan:
        """Plan the memory of all engines. If they do not fit, the plan says what is missing and what to change.

        Raises:
            ConfigurationError: a setting exceeds the memory of any GPU, or of this one.
            UnknownShapeError: the planner does not support a model or a flag.
        """
        self._check_budgets()
        engines = [requirements(role, models[role], self.options.engines[role], self.card) for role in models]
        if self.options.shares_gpu and len(engines) == 1:
            engines = [_with_default_share(engines[0], self.card)]
        return plan_requirements(self.card, engines)

    def fitting_plan(self, models: Mapping[Role, LocatedModel]) -> MemoryPlan | None:
        """The plan to start engines with; None, with a logged warning, if no plan can be made.

        Raises:
            ConfigurationError: the engines do not fit; the message says what to change.
        """
        try:
            plan = self.plan(models)
        except UnknownShapeError as error:
            logger.warning("No memory plan: %s Falling back to default memory shares.", error)
            return None
        if not plan.fits:
            raise ConfigurationError(f"{shortage(plan)}. {plan.changes[0].what} See `memoria plan` for details.")
        return plan

    def shares_without_plan(self) -> dict[Role, float]:
        """Each engine's share of the GPU if no plan can be made; empty on the CPU.

        Raises:
            ConfigurationError: an engine's setting exceeds the GPU's memory, or engines on the CPU need more
                memory than is free.
        """
        if self.card.is_gpu:
            # All roles together may take more than there is.
            total = sum(ROLES[role].gpu_share for role in self.options.engines)
            scale = min(1.0, MAX_SHARES / total)
            return {role: self._share_without_plan(role, scale) for role in self.options.engines}
        _check_memory(self.card, self.options.engines)
        return {}

    def build(
        self, progress: Progress, *, on_import: Callable[[], None] = lambda: None
    ) -> dict[Role, tuple[str, InferenceBackend]]:
        """Build a backend for each engine, without starting it; returns it with its model's name for clients.

        Args:
            progress: called while models are prepared and engines are configured.
            on_import: called when vLLM has been imported, before any engine is configured.

        Raises:
            ConfigurationError: a model or vLLM is missing, or a flag is invalid here.
        """
        models = self.locate(progress)
        # Read again: preparing models can take minutes, in which other programs allocate or free memory.
        self.card = engine_card()
        plan = self.fitting_plan(models)
        shares = {} if plan is not None else self.shares_without_plan()
        prepare_environment(
            log_level=self.options.log_level,
            offline=all(model.is_local for model in models.values()),
            on_gpu=self.card.is_gpu,
        )
        progress("loading vLLM", None)
        self._check_vllm()
        on_import()
        # Engines on one GPU start one at a time: without a plan each measures the free memory, and with a plan
        # their peaks during startup would not fit at the same time.
        start_lock = asyncio.Lock() if self.card.is_gpu else None
        built: dict[Role, tuple[str, InferenceBackend]] = {}
        for role, model in models.items():
            engine = plan.engine(role) if plan is not None else None
            backend = self._backend(role, model, plan=engine, share=shares.get(role), start_lock=start_lock)
            built[role] = (model.name, backend)
        return built

    def _check_budgets(self) -> None:
        """Raise if the settings give engines more GPU memory than is free."""
        card = self.card
        if not card.is_gpu:
            return
        budgets = {role: own.budget.bytes_on(card) for role, own in self.options.engines.items() if own.budget}
        total = sum(budgets.values())
        if total <= card.free_bytes:
            return
        names = " and ".join(_setting("VLLM_{}_GPU_MEMORY", role) for role in budgets)
        verb = "together ask" if len(budgets) > 1 else "asks"
        raise ConfigurationError(
            f"{names} {verb} for {total / GIB:.1f} GiB, and the card has {card.total_bytes / GIB:.1f} GiB, of "
            f"which {card.free_bytes / GIB:.1f} GiB are free."
        )

    def _share_without_plan(self, role: Role, scale: float) -> float:
        budget = self.options.engines[role].budget
        if budget is None:
            return round(ROLES[role].gpu_share * scale, 4)
        share = budget.bytes_on(self.card) / self.card.total_bytes
        if share >= 1:
            raise ConfigurationError(
                f"{_setting('VLLM_{}_GPU_MEMORY', role)} asks for {budget.gib} GiB, and the card has "
                f"{self.card.total_bytes / GIB:.1f} GiB."
            )
        return round(share, 4)

    def _check_vllm(self) -> None:
        try:
            import adapters.vllm.inprocess.backend  # noqa: F401
        except ImportError as error:
            setting = _setting("{}_BACKEND", next(iter(self.options.engines)))
            raise ConfigurationError(
                f"{setting} is vllm-inprocess, but vLLM can't be loaded here ({error}). Install it with "
                f"`make install INSTALL=cpu` (or gpu), or set {setting}=vllm-http."
            ) from error

    def _backend(
        self,
        role: Role,
        model: LocatedModel,
        *,
        plan: EnginePlan | None,
        share: float | None,
        start_lock: asyncio.Lock | None,
    ) -> InferenceBackend:
        from adapters.vllm.inprocess.backend import VLLMInProcessBackend

        own, options = self.options.engines[role], self.options
        defaults = default_flags(on_gpu=self.card.is_gpu, plan=plan, gpu_share=share, context=own.context)
        setup = engine_setup(
            role=role,
            model=model.source,
            served_name=model.name,
            defaults=[*defaults, *SCHEDULING_FLAGS, *trace_flags(options.trace_endpoint)],
            flags=own.flags,
            setting=_setting("VLLM_{}_ARGS", role),
        )
        return VLLMInProcessBackend(
            role=role,
            name=model.name,
            setup=setup,
            start_lock=start_lock,
            hang_s=options.hang_s,
            counts=options.counts,
            memory_plan=plan,
        )


def _setting(name: str, role: Role) -> str:
    """The name of a role's setting; `{}` stands for the role's prefix."""
    return name.format(ROLES[role].prefix)


def _with_default_share(engine: EngineRequirements, card: Card) -> EngineRequirements:
    """Limit an engine to its role's default share of the GPU, unless a setting specifies its memory."""
    if not card.is_gpu or engine.budget_bytes is not None:
        return engine
    available = card.free_bytes - reserve_bytes(card.total_bytes, on_gpu=True)
    advice = f"Give it more with {_setting('VLLM_{}_GPU_MEMORY', engine.role)}."
    return msgspec.structs.replace(
        engine,
        budget_bytes=min(int(ROLES[engine.role].gpu_share * card.total_bytes), max(0, available)),
        # If the cache size is set, that is the setting to change.
        budget_change=advice if engine.cache_bytes is None else None,
    )


def _check_memory(memory: Card, roles: Iterable[Role]) -> None:
    """Raise if engines on the CPU that can't be planned have too little memory."""
    prefixes = [ROLES[role].prefix for role in roles]
    needed = CPU_ENGINE_GIB * len(prefixes)
    available = memory.free_bytes / GIB
    if available < needed:
        elsewhere = " and ".join(f"{prefix}_BACKEND=vllm-http" for prefix in prefixes)
        raise ConfigurationError(
            f"{available:.1f} GiB of memory are available, and {len(prefixes)} engine(s) on the CPU need at least "
            f"{needed:.0f} GiB. Close other programs, or run the engines elsewhere with {elsewhere}."
        )
