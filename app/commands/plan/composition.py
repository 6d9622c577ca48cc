"""Makes the plans that `memoria plan` asks for."""

import msgspec

from adapters.memory_planning import EngineOptions, plan_engines
from adapters.models.hardware import engine_card
from adapters.models.known_shapes import KNOWN_SHAPES
from adapters.models.locate import LocatedModel, default_model, locate
from adapters.models.packaged import PACKAGED_MODELS
from adapters.models.shape import UnknownShapeError
from adapters.vllm.dialect.memory_flags import memory_arguments, other_arguments
from app.commands.plan.question import AnsweredPlan, EngineQuestion, PlanQuestion
from app.engines import engine_options, roles_with_models
from app.settings import INPROCESS, OFF, RoleSettings, Settings
from domain.errors import ConfigurationError
from domain.memory_plan import Card
from domain.progress import Progress
from domain.roles import ROLES, Role


def plan_memory(settings: Settings, question: PlanQuestion, progress: Progress) -> AnsweredPlan:
    """Plan all engines whose models are known, whichever backend they have, for this machine or another card.

    Raises:
        ConfigurationError: a model does not exist, or the planner does not support it.
    """
    _require_switched_on(settings, question)
    card = _card(question)
    names = {
        role: question.of(role).model or settings.role(role).model or default_model(role, card)
        for role in roles_with_models(settings)
    }
    models = {role: _locate(role, name, settings, question, progress) for role, name in names.items()}
    options = {role: _options(settings.role(role), question.of(role)) for role in names}
    try:
        plan = plan_engines(card, models, options)
    except UnknownShapeError as error:
        raise ConfigurationError(f"No plan can be made: {error}") from error
    return AnsweredPlan(
        plan=plan,
        models={role: name if name in PACKAGED_MODELS else models[role].source for role, name in names.items()},
        memory_flags={engine.role: memory_arguments(engine) for engine in plan.engines},
        other_flags={role: other_arguments(settings.role(role).args) for role in names},
    )


def _require_switched_on(settings: Settings, question: PlanQuestion) -> None:
    """Raise if an option concerns an engine that the settings switch off."""
    for role, info in ROLES.items():
        if role in settings.roles or question.of(role) == EngineQuestion():
            continue
        if info.is_optional:
            raise ConfigurationError(
                f"The {info.noun} engine can't be planned: MODEL_{info.prefix}_NAME is not set. Set it, or name a"
                f" model with --{info.prefix.lower()}."
            )
        raise ConfigurationError(
            f"The {info.noun} engine can't be planned: {info.prefix}_BACKEND is {OFF}. Remove its "
            f"options, or set {info.prefix}_BACKEND={INPROCESS}."
        )


def _card(question: PlanQuestion) -> Card:
    if question.gpu_bytes is not None:
        return Card(name=question.gpu_name or "A GPU", total_bytes=question.gpu_bytes)
    card = engine_card()
    return msgspec.structs.replace(card, name=question.gpu_name or card.name)


def _locate(role: Role, name: str, settings: Settings, question: PlanQuestion, progress: Progress) -> LocatedModel:
    if name in KNOWN_SHAPES:
        # The hub is not needed.
        return LocatedModel(name=name, source=name, is_local=False)
    prefix = ROLES[role].prefix
    setting = f"--{prefix.lower()}" if question.of(role).model else f"MODEL_{prefix}_NAME"
    return locate(name, setting=setting, cache=settings.cache_dir, progress=progress)


def _options(own: RoleSettings, asked: EngineQuestion) -> EngineOptions:
    """The options of one engine; the command's options override the settings."""
    return msgspec.structs.replace(
        engine_options(own),
        # If a flag is repeated, vLLM uses the last one.
        flags=f"{own.args} {asked.flags}",
        concurrency=asked.concurrency,
    )
