"""Builds engines that run in this process, and says beforehand what it would build.

`memoria serve` builds the engines; the doctor and `memoria models` ask the same provider for the models that it
finds, the memory plan and the shares without a plan. vLLM is imported only when engines are built.
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
from adapters.vllm.inprocess.engine_args import default_flags, engine_setup, prepare_environment, trace_flags
from domain.errors import ConfigurationError
from domain.memory_plan import Card, EnginePlan, EngineRequirements, MemoryPlan, shortage
from domain.model_facts import ModelFacts
from domain.port import InferenceBackend
from domain.progress import Progress
from domain.roles import ROLES, Role
from domain.units import GIB

logger = logging.getLogger("memoria")

CPU_ENGINE_GIB = 2.0
"""Least memory of an engine on the CPU, where no plan can be made."""


class InProcessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What was set for the engines of this process."""

    engines: Mapping[Role, EngineOptions]
    cache_dir: Path
    """Folder of prepared models."""
    leaves_room: bool = False
    """Whether engines of this service also run elsewhere: they may use the same GPU."""
    log_level: str = "error"
    """Of vLLM's own log."""
    hang_s: float = 30.0
    """Seconds without a sign of work after which a busy engine is taken to hang."""
    counts: bool = False
    """Whether engines count what they do, for metrics."""
    trace_endpoint: str | None = None
    """Where engines send their spans; None for no spans."""


class InProcessProvider:
    """The engines of this process, by what was set for them and what the machine has."""

    def __init__(self, options: InProcessOptions) -> None:
        self.options = options
        self.card = engine_card()
        """The memory that the engines share."""

    def model_name(self, role: Role) -> str:
        """The model that was set, or else the default for this machine."""
        return self.options.engines[role].model or default_model(role, self.card)

    def inspect(self, role: Role) -> ModelFacts:
        """What is known of a role's model without fetching it.

        Raises:
            ConfigurationError: there is no such model.
        """
        return inspect_model(
            self.model_name(role), setting=_setting("MODEL_{}_NAME", role), cache=self.options.cache_dir
        )

    def locate(self, progress: Progress) -> dict[Role, LocatedModel]:
        """All models, found and prepared.

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
        """The memory of all engines. It may not fit; then the plan says what is missing and what to change.

        Raises:
            ConfigurationError: more was set than a card, or this card, has.
            UnknownShapeError: a model, or a flag, is of a kind that no plan can be made for.
        """
        self._require_budgets()
        engines = [requirements(role, models[role], self.options.engines[role], self.card) for role in models]
        if self.options.leaves_room and len(engines) == 1:
            engines = [_with_usual_share(engines[0], self.card)]
        return plan_requirements(self.card, engines)

    def fitting_plan(self, models: Mapping[Role, LocatedModel]) -> MemoryPlan | None:
        """The plan that engines are started with; None, and a warning in the log, if no plan can be made.

        Raises:
            ConfigurationError: the engines do not fit; the message says what to change.
        """
        try:
            plan = self.plan(models)
        except UnknownShapeError as error:
            logger.warning("No memory plan: %s Falling back to default memory shares.", error)
            return None
        if not plan.fits:
            raise ConfigurationError(f"{shortage(plan)}. {plan.changes[0].what} `memoria plan` shows it all.")
        return plan

    def shares_without_plan(self) -> dict[Role, float]:
        """The share of the GPU that each engine asks for where no plan can be made; none on the CPU.

        Raises:
            ConfigurationError: more was set for an engine than the GPU has, or engines on the CPU need more memory
                than is free.
        """
        if self.card.is_gpu:
            return {role: self._share_without_plan(role) for role in self.options.engines}
        _require_memory(self.card, self.options.engines)
        return {}

    def build(
        self, progress: Progress, *, on_import: Callable[[], None] = lambda: None
    ) -> dict[Role, tuple[str, InferenceBackend]]:
        """A backend for each engine, and its model's name for clients. Nothing starts yet.

        Args:
            progress: called while models are prepared and engines configured.
            on_import: called when vLLM has been imported, before any engine is configured.

        Raises:
            ConfigurationError: a model, a flag or vLLM itself is missing or can't be used here.
        """
        models = self.locate(progress)
        # Preparing models can take minutes, in which other programs take memory or free it.
        self.card = engine_card()
        plan = self.fitting_plan(models)
        shares = {} if plan is not None else self.shares_without_plan()
        prepare_environment(
            log_level=self.options.log_level,
            offline=all(model.is_local for model in models.values()),
            on_gpu=self.card.is_gpu,
        )
        progress("loading vLLM", None)
        self._require_vllm()
        on_import()
        # One after the other on one card: without a plan each measures what is free, and with one little is left
        # for several that reach their peaks at once.
        start_lock = asyncio.Lock() if self.card.is_gpu else None
        built: dict[Role, tuple[str, InferenceBackend]] = {}
        for role, model in models.items():
            engine = plan.engine(role) if plan is not None else None
            backend = self._backend(role, model, plan=engine, share=shares.get(role), start_lock=start_lock)
            built[role] = (model.name, backend)
        return built

    def _require_budgets(self) -> None:
        """Raise if the settings give engines more memory of the GPU than is free."""
        card = self.card
        if not card.is_gpu:
            return
        set_ = {role: own.budget.bytes_on(card) for role, own in self.options.engines.items() if own.budget}
        total = sum(set_.values())
        if total <= card.free_bytes:
            return
        names = " and ".join(_setting("VLLM_{}_GPU_MEMORY", role) for role in set_)
        verb = "together ask" if len(set_) > 1 else "asks"
        raise ConfigurationError(
            f"{names} {verb} for {total / GIB:.1f} GiB, and the card has {card.total_bytes / GIB:.1f} GiB, of "
            f"which {card.free_bytes / GIB:.1f} GiB are free."
        )

    def _share_without_plan(self, role: Role) -> float:
        budget = self.options.engines[role].budget
        if budget is None:
            return ROLES[role].gpu_share
        share = budget.bytes_on(self.card) / self.card.total_bytes
        if share >= 1:
            raise ConfigurationError(
                f"{_setting('VLLM_{}_GPU_MEMORY', role)} asks for {budget.gib} GiB, and the card has "
                f"{self.card.total_bytes / GIB:.1f} GiB."
            )
        return round(share, 4)

    def _require_vllm(self) -> None:
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
            defaults=[*defaults, *trace_flags(options.trace_endpoint)],
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
    """A role's variable; `{}` stands for the role's prefix."""
    return name.format(ROLES[role].prefix)


def _with_usual_share(engine: EngineRequirements, card: Card) -> EngineRequirements:
    """An engine whose neighbors run elsewhere gets its role's share of the GPU, if no setting says otherwise."""
    if not card.is_gpu or engine.budget_bytes is not None:
        return engine
    advice = f"Give it more with {_setting('VLLM_{}_GPU_MEMORY', engine.role)}."
    return msgspec.structs.replace(
        engine,
        budget_bytes=int(ROLES[engine.role].gpu_share * card.total_bytes),
        # A cache that was set is what would have to be changed.
        budget_change=advice if engine.cache_bytes is None else None,
    )


def _require_memory(memory: Card, roles: Iterable[Role]) -> None:
    """Raise if engines of which no plan can be made have too little memory on the CPU."""
    prefixes = [ROLES[role].prefix for role in roles]
    needed = CPU_ENGINE_GIB * len(prefixes)
    available = memory.free_bytes / GIB
    if available < needed:
        elsewhere = " and ".join(f"{prefix}_BACKEND=vllm-http" for prefix in prefixes)
        raise ConfigurationError(
            f"{available:.1f} GiB of memory are available, and {len(prefixes)} engine(s) on the CPU need at least "
            f"{needed:.0f} GiB. Close other programs, or run the engines elsewhere with {elsewhere}."
        )
