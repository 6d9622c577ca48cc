"""Settings read from the environment and from a .env file."""

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
from app.settings.values import HTTP, INPROCESS, OFF
from app.settings.variables import VARIABLES, build
from domain.errors import ConfigurationError
from domain.roles import ROLES, Role

NEAR_NAME, NEAR_WORD = 0.8, 0.5
"""How much of a misspelled name, and of each of its words, is that of a setting at least: difflib's ratio."""


def load_settings(environ: Mapping[str, str], dotenv: Path | None = None) -> Settings:
    """Settings from the environment, and from a .env file for what the environment leaves open.

    Raises:
        ConfigurationError: something can't be used. Its message has one line for every mistake.
    """
    given = dict(_read_dotenv(dotenv)) | dict(environ)
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for variable in VARIABLES:
        written = _written(variable, given)
        try:
            values[variable.name] = variable.parse(written)
        except ValueError as error:
            is_secret = variable.is_secret or isinstance(error, SecretValueError)
            shown = "" if is_secret else f" is '{written}'; it"
            mistakes.append(f"{variable.name}{shown} {error}.")
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    settings = build(Settings, lambda variable: values[variable.name])
    return msgspec.structs.replace(
        settings,
        roles=_switched_on(settings),
        telemetry=msgspec.structs.replace(settings.telemetry, environment=_otel_environment(given)),
    )


def _written(variable: Variable, given: Mapping[str, str]) -> str:
    fallback = variable.fallback(given) if variable.fallback is not None else ""
    return given.get(variable.name, "").strip() or fallback or variable.default


def _switched_on(settings: Settings) -> dict[Role, RoleSettings]:
    found = {role: own for role, own in settings.roles.items() if own.backend != OFF}
    if not found:
        names = [f"{info.prefix}_BACKEND" for info in ROLES.values()]
        raise ConfigurationError(
            f"{' and '.join(names)} are {OFF}, so there is nothing to serve. Set one of them to {INPROCESS} or "
            f"{HTTP}."
        )
    return found


def _otel_environment(given: Mapping[str, str]) -> dict[str, str]:
    """OpenTelemetry's variables that say something else than their defaults."""
    defaults = {variable.name: variable.default for variable in VARIABLES}
    values = {name: value.strip() for name, value in given.items() if name.startswith("OTEL_")}
    return {name: value for name, value in values.items() if value and value != defaults.get(name)}


def unknown_names(dotenv: Path) -> list[str]:
    """Warnings for names in a .env file that are misspelled settings. Other programs' names are theirs.

    A misspelled name has the words of a setting, or nearly. A name with one word more, or with another word, is
    somebody else's: `VLLM_GEN_MODEL_ARGS` of the compose files, or `OTEL_EXPORTER_OTLP_TIMEOUT` of the SDK.
    """
    known = [variable.name for variable in VARIABLES]
    warnings: list[str] = []
    for name in _read_dotenv(dotenv):
        near = difflib.get_close_matches(name, known, cutoff=NEAR_NAME)
        meant = next((each for each in near if _is_misspelled(name, each)), None)
        if name not in known and meant is not None:
            warnings.append(f"{dotenv.name} sets {name}, which nothing reads. Did you mean {meant}?")
    return warnings


def _is_misspelled(name: str, known: str) -> bool:
    words, wanted = name.split("_"), known.split("_")
    if len(words) != len(wanted):
        return name.replace("_", "") == known.replace("_", "")
    return all(
        difflib.SequenceMatcher(a=word, b=other).ratio() > NEAR_WORD
        for word, other in zip(words, wanted, strict=True)
    )


def _read_dotenv(path: Path | None) -> dict[str, str]:
    if path is None or not path.is_file():
        return {}
    try:
        return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path.name} can't be read: {error}. It must be text in UTF-8.") from error
