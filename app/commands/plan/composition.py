"""Where plans are made: of settings, models and cards. Part of the composition root (`app/bootstrap.py`)."""

import logging

import msgspec

from adapters.memory_planning import EngineChoice, plan_engines
from adapters.models.hardware import gpu_card, ram, usable_gpu_gib
from adapters.models.known_shapes import KNOWN_SHAPES
from adapters.models.locate import LocatedModel, default_model, locate
from adapters.models.packaged import PACKAGED_MODELS, Progress
from adapters.models.shape import UnknownShapeError
from adapters.vllm.dialect.memory_flags import memory_arguments, other_arguments
from app.commands.plan.question import AnsweredPlan, EngineQuestion, PlanQuestion
from app.commands.plan.shortage import shortage
from app.settings import INPROCESS, OFF, Settings
from domain.errors import ConfigurationError
from domain.memory_plan import Card, MemoryPlan
from domain.roles import ROLES, Role

GIB = 2**30
logger = logging.getLogger("memoria")


def plan_service(
    models: dict[Role, LocatedModel],
    settings: Settings,
    gpu_gib: float | None,
    *,
    lone_share: dict[Role, float],
) -> MemoryPlan | None:
    """How much each engine in process gets; None if nobody can tell.

    Args:
        models: of all roles whose engines run in process.
        settings: what was decided of them.
        gpu_gib: memory of the card; None without one.
        lone_share: share of the card for an engine that is alone in process while others run elsewhere, if no
            setting gives one.

    Raises:
        ConfigurationError: they do not fit.
    """
    try:
        plan = possible_plan(models, settings, gpu_gib, lone_share=lone_share)
    except UnknownShapeError as error:
        logger.warning("No memory plan: %s The engines get what they got without one.", error)
        return None
    if not plan.fits:
        raise ConfigurationError(f"{shortage(plan)}. {plan.changes[0].what} `memoria plan` shows it all.")
    return plan


def possible_plan(
    models: dict[Role, LocatedModel],
    settings: Settings,
    gpu_gib: float | None,
    *,
    lone_share: dict[Role, float],
) -> MemoryPlan:
    """The same plan, for who wants to know what is missing if it does not fit.

    Raises:
        ConfigurationError: the settings ask for what no card has, or for more than this one has.
        UnknownShapeError: a model, or a flag, is of a kind that no plan can be made for.
    """
    card = ram() if gpu_gib is None else _gpu(gpu_gib)
    # Alone in process, while the other engine runs elsewhere and may share the card.
    is_alone = len(models) == 1 < len(settings.roles)
    budgets = {
        role: _budget_bytes(role, settings, card, default=lone_share[role] if is_alone else None)
        for role in models
    }
    _require_room(budgets, card, settings)
    choices = [
        EngineChoice(
            role=role,
            name=model.name,
            source=model.source,
            flags=settings.role(role).args,
            context=settings.role(role).max_model_len,
            budget_bytes=budgets[role],
            # Nobody decided for the share of an engine alone, so there is no decision to take back.
            budget_change=None
            if settings.role(role).gpu_memory
            else f"Give it more with VLLM_{ROLES[role].prefix}_GPU_MEMORY.",
        )
        for role, model in models.items()
    ]
    return plan_engines(card, choices)


def plan_memory(settings: Settings, question: PlanQuestion, progress: Progress) -> AnsweredPlan:
    """The plan that `memoria plan` asks for: of all engines, wherever they run, on this machine or another card.

    Raises:
        ConfigurationError: a model does not exist, or is of a kind that no plan can be made for.
    """
    _require_switched_on(settings, question)
    card = _asked_card(question)
    names = {role: _asked_name(role, settings, question, card) for role in settings.roles}
    choices = [_asked_engine(role, names[role], settings, question, card, progress) for role in settings.roles]
    try:
        plan = plan_engines(card, choices)
    except UnknownShapeError as error:
        raise ConfigurationError(f"No plan can be made: {error}") from error
    return AnsweredPlan(
        plan=plan,
        models={
            choice.role: names[choice.role] if names[choice.role] in PACKAGED_MODELS else choice.source
            for choice in choices
        },
        memory_flags={engine.role: memory_arguments(engine) for engine in plan.engines},
        other_flags={role: other_arguments(own.args) for role, own in settings.roles.items()},
    )


def _require_switched_on(settings: Settings, question: PlanQuestion) -> None:
    """Raise if the command's options are about an engine that the settings switch off."""
    for role, info in ROLES.items():
        if role not in settings.roles and question.of(role) != EngineQuestion():
            raise ConfigurationError(
                f"The {info.noun} engine can't be planned: {info.prefix}_BACKEND is {OFF}. Leave its options "
                f"out, or set {info.prefix}_BACKEND={INPROCESS}."
            )


def _asked_card(question: PlanQuestion) -> Card:
    if question.gpu_bytes is not None:
        return Card(name=question.gpu_name or "A GPU", total_bytes=question.gpu_bytes)
    gpu_gib = usable_gpu_gib()
    card = ram() if gpu_gib is None else _gpu(gpu_gib)
    return msgspec.structs.replace(card, name=question.gpu_name or card.name)


def _asked_name(role: Role, settings: Settings, question: PlanQuestion, card: Card) -> str:
    """A model: by the command's option, then the setting, then the machine."""
    card_gib = card.total_bytes / GIB if card.is_gpu else None
    return question.of(role).model or settings.role(role).model or default_model(role, card_gib)


def _asked_engine(
    role: Role, name: str, settings: Settings, question: PlanQuestion, card: Card, progress: Progress
) -> EngineChoice:
    """One engine: by the command's options, then the settings, then the machine."""
    own, asked = settings.role(role), question.of(role)
    if name in KNOWN_SHAPES:
        # No need to ask the hub.
        model = LocatedModel(name=name, source=name, is_local=False)
    else:
        setting = f"--{ROLES[role].prefix.lower()}" if asked.model else f"MODEL_{ROLES[role].prefix}_NAME"
        model = locate(name, setting=setting, cache=settings.cache_dir, progress=progress)
    return EngineChoice(
        role=role,
        name=model.name,
        source=model.source,
        # Of a flag that is there twice the last one counts, and the command's options are nearest.
        flags=f"{own.args} {asked.flags}",
        context=own.max_model_len,
        concurrency=asked.concurrency,
        budget_bytes=_budget_bytes(role, settings, card, default=None),
    )


def _gpu(gib: float) -> Card:
    return gpu_card() or Card(name="the GPU", total_bytes=int(gib * GIB))


def _budget_bytes(role: Role, settings: Settings, card: Card, *, default: float | None) -> int | None:
    """What an engine may take of the card; None leaves it to the plan."""
    if not card.is_gpu:
        return None
    wanted = settings.role(role).gpu_memory
    if wanted is None:
        return None if default is None else int(default * card.total_bytes)
    if wanted.fraction is not None:
        return int(wanted.fraction * card.total_bytes)
    return int((wanted.gib or 0) * GIB)


def _require_room(budgets: dict[Role, int | None], card: Card, settings: Settings) -> None:
    """Raise if what the settings ask for is more than the card has."""
    asked = {role: budget for role, budget in budgets.items() if budget and settings.role(role).gpu_memory}
    total, free = card.total_bytes, card.total_bytes - card.used_bytes
    if sum(asked.values()) <= free:
        return
    names = " and ".join(f"VLLM_{ROLES[role].prefix}_GPU_MEMORY" for role in asked)
    verb = "together ask" if len(asked) > 1 else "asks"
    raise ConfigurationError(
        f"{names} {verb} for {sum(asked.values()) / GIB:.1f} GiB, and the card has {total / GIB:.1f} GiB, of "
        f"which {free / GIB:.1f} GiB are free."
    )
