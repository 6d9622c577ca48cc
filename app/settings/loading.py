"""Loads settings from the environment and a .env file."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from dotenv import dotenv_values

from app.settings.declaration import Variable
from app.settings.parsers import SecretValueError
from app.settings.roles import RoleSettings
from app.settings.settings import Settings
from app.settings.values import AUTO, HTTP, INPROCESS, OFF
from app.settings.variables import VARIABLES, build
from domain.errors import ConfigurationError
from domain.roles import ROLES, Role

NEAR_NAME, NEAR_WORD = 0.8, 0.5
"""Minimum similarity of a misspelled name, and of each of its words, to a setting's: difflib's ratio."""


def load_settings(environ: Mapping[str, str], dotenv: Path | None = None) -> Settings:
    """Load settings from the environment, which takes precedence, and from a .env file.

    Raises:
        ConfigurationError: values are invalid. The message has one line per mistake.
    """
    given = dict(_read_dotenv(dotenv)) | dict(environ)
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for variable in VARIABLES:
        text = _text_of(variable, given)
        try:
            values[variable.name] = variable.parse(text)
        except ValueError as error:
            is_secret = variable.is_secret or isinstance(error, SecretValueError)
            shown = "" if is_secret else f" is '{text}'; it"
            mistakes.append(f"{variable.name}{shown} {error}.")
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    settings = build(Settings, lambda variable: values[variable.name])
    return msgspec.structs.replace(
        settings,
        roles=_switched_on(settings),
        telemetry=msgspec.structs.replace(settings.telemetry, environment=_otel_environment(given)),
    )


def _text_of(variable: Variable, given: Mapping[str, str]) -> str:
    fallback = variable.fallback(given) if variable.fallback is not None else ""
    return given.get(variable.name, "").strip() or fallback or variable.default


def _switched_on(settings: Settings) -> dict[Role, RoleSettings]:
    resolved = {role: _with_backend(role, own) for role, own in settings.roles.items()}
    found = {role: own for role, own in resolved.items() if own.backend != OFF}
    if not found:
        names = [f"{info.prefix}_BACKEND" for info in ROLES.values() if not info.is_optional]
        optional = [f"MODEL_{info.prefix}_NAME" for info in ROLES.values() if info.is_optional]
        raise ConfigurationError(
            f"{' and '.join(names)} are {OFF}, so there is nothing to serve. Set one of them to {INPROCESS} or "
            f"{HTTP}, or name a model with {' or '.join(optional)}."
        )
    return found


def _with_backend(role: Role, own: RoleSettings) -> RoleSettings:
    """The settings of a role with the backend that `auto` stands for."""
    info = ROLES[role]
    has_model = own.model is not None or not info.is_optional
    if own.backend == INPROCESS and not has_model:
        raise ConfigurationError(
            f"{info.prefix}_BACKEND is {INPROCESS}, and there is no default {info.noun} model. Set"
            f" MODEL_{info.prefix}_NAME, or {info.prefix}_BACKEND={OFF}."
        )
    if own.backend != AUTO:
        return own
    return msgspec.structs.replace(own, backend=INPROCESS if has_model else OFF)


def _otel_environment(given: Mapping[str, str]) -> dict[str, str]:
    """OpenTelemetry's variables that differ from their defaults."""
    defaults = {variable.name: variable.default for variable in VARIABLES}
    values = {name: value.strip() for name, value in given.items() if name.startswith("OTEL_")}
    return {name: value for name, value in values.items() if value and value != defaults.get(name)}


def unknown_names(dotenv: Path) -> list[str]:
    """Warn of misspelled settings in a .env file, but not of other programs' variables.

    A misspelled name has almost the same words as a setting. A name with an additional or a different word is
    another program's: `VLLM_GEN_MODEL_ARGS` of the compose files, or `OTEL_EXPORTER_OTLP_TIMEOUT` of the SDK.
    """
    known = [variable.name for variable in VARIABLES]
    warnings: list[str] = []
    for name in _read_dotenv(dotenv):
        near = difflib.get_close_matches(name, known, cutoff=NEAR_NAME)
        intended = next((each for each in near if _is_misspelled(name, each)), None)
        if name not in known and intended is not None:
            warnings.append(f"{dotenv.name} sets {name}, which is unknown. Did you mean {intended}?")
    return warnings


def _is_misspelled(name: str, known: str) -> bool:
    """Whether a name is a known one with mistakes in its words, or without its unit of seconds."""
    return any(_has_similar_words(name, meant) for meant in (known, known.removesuffix("_S")))


def _has_similar_words(name: str, known: str) -> bool:
    words, known_words = name.split("_"), known.split("_")
    if len(words) != len(known_words):
        return name.replace("_", "") == known.replace("_", "")
    return all(
        difflib.SequenceMatcher(a=word, b=other).ratio() > NEAR_WORD
        for word, other in zip(words, known_words, strict=True)
    )


def _read_dotenv(path: Path | None) -> dict[str, str]:
    if path is None or not path.is_file():
        return {}
    try:
        return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path.name} can't be read: {error}. It must be text in UTF-8.") from error
