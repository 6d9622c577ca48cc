"""Finds the service to use: its address, its model and the model's context length."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import msgspec

from app.commands.model_list import request_models
from app.commands.service_url import given_url, local_url
from app.settings import INPROCESS, RoleSettings, Settings
from domain.errors import ConfigurationError
from domain.roles import ROLES, Role

KEY = "MEMORIA_API_KEY"
"""Environment variable from which Codex and OpenCode read the API key."""
TIMEOUT_S = 5.0
NAME_IT = "Name the model with --model, or start the service first: it is asked for its models."
PREFIX = ROLES[Role.GENERATE].prefix


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Connection details of the service."""

    url: str
    """Address without `/v1`."""
    model: str
    context: int | None
    """The model's context length in tokens; None if it is not known."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The target, and how it was found."""

    target: Target
    notes: list[str]
    """Sentences for the user."""


class _Model(msgspec.Struct):
    slug: str
    context_window: int | None = None


class _Listing(msgspec.Struct):
    models: list[_Model]


def find_target(
    settings: Settings,
    *,
    url: str | None,
    model: str | None,
    default_model: Callable[[], str],
    environ: Mapping[str, str] = os.environ,
) -> Found:
    """Find the service: ask it, and take from the settings what it does not answer.

    Args:
        settings: of this service; they do not matter for a service at another address.
        url: the option `--url`.
        model: the option `--model`.
        default_model: finds the model that is chosen for this machine.
        environ: the environment.

    Raises:
        ConfigurationError: the address or the model is wrong or not known.
    """
    address = local_url(settings) if url is None else given_url(url)
    own = settings.roles.get(Role.GENERATE)
    if url is None and own is None:
        raise ConfigurationError(
            f"{PREFIX}_BACKEND is off, so there is no generation model that an agent can use."
        )
    keys = [environ.get(KEY, "")]
    if url is None:
        # These keys are for no other service.
        keys += settings.security.api_keys
    try:
        models = _ask(address, next(filter(None, keys), None))
    except _NoAnswerError as error:
        return _without_answer(address, own if url is None else None, model, default_model, str(error))
    target = _choose(address, models, model, own if url is None else None)
    return Found(target=target, notes=[f"{address} serves {target.model}{_length(target.context)}."])


class _NoAnswerError(Exception):
    """The service did not list its models; the message is a sentence about why."""


def _ask(address: str, key: str | None) -> list[_Model]:
    """The generation models of a running service, under each of their names."""
    try:
        response = request_models(address, api_key=key, timeout_s=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise _NoAnswerError(f"{address} does not answer ({error or type(error).__name__}).") from None
    if response.status_code == httpx.codes.UNAUTHORIZED:
        what = "rejects the API key" if key else "requires an API key"
        raise _NoAnswerError(f"{address} {what}; set {KEY} to one of its keys.")
    try:
        models = msgspec.json.decode(response.content, type=_Listing).models
    except msgspec.MsgspecError:
        raise _NoAnswerError(
            f"{address} does not answer like this service (status {response.status_code} for /v1/models)."
        ) from None
    if not models:
        raise _NoAnswerError(f"{address} lists no generation model yet.")
    return models


def _choose(address: str, models: list[_Model], wanted: str | None, own: RoleSettings | None) -> Target:
    names = [model.slug for model in models]
    if wanted is not None and wanted not in names:
        raise ConfigurationError(f"--model is '{wanted}', but {address} serves {', '.join(names)}.")
    chosen = models[names.index(wanted)] if wanted is not None else models[0]
    return Target(url=address, model=chosen.slug, context=chosen.context_window or _own_context(own))


def _without_answer(
    address: str, own: RoleSettings | None, model: str | None, default_model: Callable[[], str], why: str
) -> Found:
    if own is None:
        if model is None:
            raise ConfigurationError(f"{why} {NAME_IT}")
        return Found(
            target=Target(url=address, model=model, context=None), notes=[f"{why} The model is not checked."]
        )
    name = model or _name_in(own, default_model)
    target = Target(url=address, model=name, context=_own_context(own))
    notes = [f"{why} The configuration is made from the settings: {name}{_length(target.context)}."]
    if target.context is None:
        notes.append(
            "The context length is not known before the model has been loaded once; start the service, then repeat"
            f" this command, or set VLLM_{PREFIX}_MAX_MODEL_LEN."
        )
    return Found(target=target, notes=notes)


def _name_in(own: RoleSettings, default_model: Callable[[], str]) -> str:
    """The name under which the model of the settings is served."""
    if own.model is None:
        if own.backend != INPROCESS:
            raise ConfigurationError(f"MODEL_{PREFIX}_NAME is not set. {NAME_IT}")
        return default_model()
    if own.backend != INPROCESS:
        return own.model
    folder = Path(own.model).expanduser()
    return folder.resolve().name if folder.is_dir() else own.model


def _own_context(own: RoleSettings | None) -> int | None:
    return own.max_model_len if own is not None else None


def _length(context: int | None) -> str:
    return f", {context:,} tokens of context" if context is not None else ""
