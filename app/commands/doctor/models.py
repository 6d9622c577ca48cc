"""Models: whether they are there, fit their roles, and can chat."""

from typing import Literal

from app.commands.doctor.finding import Finding, failure, ok, warning
from domain.model_facts import ModelFacts
from domain.roles import ROLES, Role
from domain.units import size

Kind = Literal["generate", "embed", "classify"]


# What a model of an architecture does, by the end of its name; the first that fits counts.
# Source: `_SUFFIX_TO_DEFAULTS` of vllm.config.model (0.32.0), by which vLLM decides; a test compares them.
KINDS: tuple[tuple[str, Kind], ...] = (
    ("ForCausalLM", "generate"),
    ("ForConditionalGeneration", "generate"),
    ("ChatModel", "generate"),
    ("LMHeadModel", "generate"),
    ("ForTextEncoding", "embed"),
    ("EmbeddingModel", "embed"),
    ("ForSequenceClassification", "classify"),
    ("ForTokenClassification", "classify"),
    ("ForAudioClassification", "classify"),
    ("ForImageClassification", "classify"),
    ("ForVideoClassification", "classify"),
    ("ClassificationModel", "classify"),
    ("ForRewardModeling", "embed"),
    ("RewardModel", "embed"),
    ("Model", "embed"),
)


def check_presence(role: Role, model: ModelFacts) -> Finding:
    """Where a model comes from, and whether it is here."""
    check = f"{role} model"
    if model.origin == "package":
        there = "is prepared" if not model.fetch_bytes else "will be fetched with pip at the first start"
        return ok(check, f"{model.name} {there}")
    if model.origin == "folder":
        if model.weight_bytes == 0:
            return failure(
                check, f"{model.name} has no weights (*.safetensors, *.bin)", "Name the folder that holds them"
            )
        return ok(check, f"{model.name}, a local folder")
    if not model.fetch_bytes:
        offline = "" if model.hub_answers is not False else "; the hub does not answer, and is not needed"
        return ok(check, f"{model.name} is in the cache of this machine{offline}")
    if model.hub_answers is False:
        return failure(
            check,
            f"{model.name} is not all in the cache of this machine, and the hub does not answer",
            "Connect the machine (HF_ENDPOINT names a mirror), or set the name to a local folder",
        )
    return ok(check, f"{model.name} will be fetched from the hub: {size(model.fetch_bytes)}")


def check_role(role: Role, model: ModelFacts) -> Finding | None:
    """Whether a model does what its role asks for; None if that is not known."""
    kind, what = _kind(model)
    if kind is None:
        return None
    judge = _check_generates if ROLES[role].generates else _check_embeds
    return judge(f"{role} role", f"MODEL_{ROLES[role].prefix}_NAME", model, kind, what)


def _check_generates(check: str, variable: str, model: ModelFacts, kind: Kind, what: str) -> Finding:
    if kind != "generate":
        return failure(check, f"{what} can't generate text", f"Set {variable} to a model that can")
    if model.is_sentence_encoder:
        return warning(
            check,
            f"{model.name} was trained for embeddings",
            f"Set {variable} to a model for chat or completions",
        )
    return ok(check, f"{what} generates text")


def _check_embeds(check: str, variable: str, model: ModelFacts, kind: Kind, what: str) -> Finding:
    if model.package_role is not None and kind != "embed":
        return failure(check, f"{what} is for text, not for embeddings", f"Set {variable} to an embedding model")
    if kind == "classify":
        return failure(
            check, f"{what} classifies, and gives no embeddings", f"Set {variable} to an embedding model"
        )
    if kind == "generate" and not model.is_sentence_encoder:
        return warning(
            check,
            f"{what} generates text, and nothing in it says that it was trained for embeddings (no modules.json)",
            f"Its vectors may mean little: set {variable} to an embedding model if they do",
        )
    return ok(check, f"{what} gives embeddings")


def check_chat_template(role: Role, model: ModelFacts, *, flags: list[str]) -> Finding:
    """Whether a model that generates can chat."""
    prefix = ROLES[role].prefix
    if any(flag.split("=")[0] == "--chat-template" for flag in flags):
        return ok("chat template", f"the one that VLLM_{prefix}_ARGS names")
    if model.has_chat_template is None:
        return ok("chat template", "not known before the model is fetched")
    if model.has_chat_template:
        return ok("chat template", f"{model.name} has one")
    return warning(
        "chat template",
        f"{model.name} has none: chats are refused, completions work",
        f"Set MODEL_{prefix}_NAME to an instruct or chat model, or VLLM_{prefix}_ARGS to --chat-template FILE",
    )


def _kind(model: ModelFacts) -> tuple[Kind | None, str]:
    """What a model does, and the name that says so."""
    if model.package_role is not None:
        return ("generate" if ROLES[model.package_role].generates else "embed"), model.name
    architectures = model.config.get("architectures")
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return kind_of(named), named


def kind_of(architecture: str) -> Kind | None:
    """What an architecture does, or None for a name of no known form."""
    return next((kind for suffix, kind in KINDS if architecture.endswith(suffix)), None)
