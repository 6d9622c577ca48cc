"""Checks models: whether they are available, fit their roles, and have a chat template."""

from collections.abc import Callable, Mapping
from typing import Literal

from adapters.vllm.dialect.rerankers import reranker_overrides
from app.commands.doctor.finding import Finding, failure, ok, warning
from domain.model_facts import ModelFacts
from domain.roles import ROLES, Role
from domain.units import size

Kind = Literal["generate", "embed", "classify"]


# Kinds of models by the suffix of their architecture; the first match counts.
# Source: `_SUFFIX_TO_DEFAULTS` of vllm.config.model (0.32.0), which vLLM itself uses; a test compares them.
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
    """Check whether a model is available, and where it comes from."""
    check = f"{role} model"
    if model.origin == "package":
        state = "is prepared" if not model.fetch_bytes else "will be fetched with pip at the first start"
        return ok(check, f"{model.name} {state}")
    if model.origin == "folder":
        if model.weight_bytes == 0:
            return failure(
                check,
                f"{model.name} has no weights (*.safetensors, *.bin)",
                "Set the name to the folder that contains them",
            )
        return ok(check, f"{model.name}, a local folder")
    if not model.fetch_bytes:
        offline = "" if model.hub_answers is not False else "; the hub is unreachable, but not needed"
        return ok(check, f"{model.name} is in this machine's cache{offline}")
    if model.hub_answers is False:
        return failure(
            check,
            f"{model.name} is not completely in this machine's cache, and the hub is unreachable",
            "Connect the machine (HF_ENDPOINT names a mirror), or set the name to a local folder",
        )
    return ok(check, f"{model.name} will be fetched from the hub: {size(model.fetch_bytes)}")


def check_role(role: Role, model: ModelFacts) -> Finding | None:
    """Check whether a model fits its role; None if unknown."""
    kind, subject = _kind(model)
    if kind is None:
        return None
    return _CHECKS[role](f"{role} role", f"MODEL_{ROLES[role].prefix}_NAME", model, kind, subject)


def _check_generates(check: str, variable: str, model: ModelFacts, kind: Kind, subject: str) -> Finding:
    if kind != "generate":
        return failure(check, f"{subject} can't generate text", f"Set {variable} to a model that can")
    if model.is_sentence_encoder:
        return warning(
            check,
            f"{model.name} was trained for embeddings",
            f"Set {variable} to a model for chat or completions",
        )
    return ok(check, f"{subject} generates text")


def _check_embeds(check: str, variable: str, model: ModelFacts, kind: Kind, subject: str) -> Finding:
    if model.package_role is not None and kind != "embed":
        return failure(check, f"{subject} generates text, not embeddings", f"Set {variable} to an embedding model")
    if kind == "classify":
        return failure(
            check,
            f"{subject} is a classifier, and produces no embeddings",
            f"Set {variable} to an embedding model",
        )
    if kind == "generate" and not model.is_sentence_encoder:
        return warning(
            check,
            f"{subject} generates text, and does not seem to be trained for embeddings (no modules.json)",
            f"If its vectors are of low quality, set {variable} to an embedding model",
        )
    return ok(check, f"{subject} produces embeddings")


def _check_reranks(check: str, variable: str, model: ModelFacts, kind: Kind, subject: str) -> Finding:
    if kind == "classify" and (labels := _labels(model)) > 1:
        return failure(
            check,
            f"{model.name} is a classifier with {labels} labels, and a reranking model has one",
            f"Set {variable} to a reranking model",
        )
    if kind == "classify" or reranker_overrides(model.config, is_sentence_encoder=model.is_sentence_encoder):
        return ok(check, f"{subject} scores documents")
    is_generator = kind == "generate" and not model.is_sentence_encoder
    what = "generates text" if is_generator else "produces embeddings"
    return failure(
        check,
        f"{subject} {what}, not scores",
        f"Set {variable} to a reranking model, or leave it unset: then the embedding model scores documents",
    )


_CHECKS: Mapping[Role, Callable[[str, str, ModelFacts, Kind, str], Finding]] = {
    Role.EMBED: _check_embeds,
    Role.GENERATE: _check_generates,
    Role.RERANK: _check_reranks,
}


def _labels(model: ModelFacts) -> int:
    """Labels of a classifier, which transformers takes to be 2 if its config.json names none."""
    named = model.config.get("id2label")
    return len(named) if isinstance(named, dict) else 2


def check_chat_template(role: Role, model: ModelFacts, *, flags: list[str]) -> Finding:
    """Check whether a model that generates text has a chat template."""
    prefix = ROLES[role].prefix
    if any(flag.split("=")[0] == "--chat-template" for flag in flags):
        return ok("chat template", f"set in VLLM_{prefix}_ARGS")
    if model.has_chat_template is None:
        return ok("chat template", "unknown until the model is fetched")
    if model.has_chat_template:
        return ok("chat template", f"{model.name} has one")
    return warning(
        "chat template",
        f"{model.name} has none: chat requests are rejected, completions work",
        f"Set MODEL_{prefix}_NAME to an instruct or chat model, or VLLM_{prefix}_ARGS to --chat-template FILE",
    )


def _kind(model: ModelFacts) -> tuple[Kind | None, str]:
    """The kind of a model, and its name or architecture, from which it follows."""
    if model.package_role is not None:
        return ("generate" if ROLES[model.package_role].generates else "embed"), model.name
    architectures = model.config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return kind_of(architecture), architecture


def kind_of(architecture: str) -> Kind | None:
    """The kind of an architecture, or None if unknown."""
    return next((kind for suffix, kind in KINDS if architecture.endswith(suffix)), None)
