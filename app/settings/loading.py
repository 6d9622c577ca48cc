"""Settings read from the environment and from a .env file."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from app.http.api_options import ApiOptions
from app.settings import otlp
from app.settings.compose_variables import COMPOSE_VARIABLES
from app.settings.settings import (
    PREFIX,
    EmbeddingPolicies,
    HttpOptions,
    RoleSettings,
    SecuritySettings,
    Settings,
    TelemetrySettings,
)
from app.settings.variable import SecretValueError
from app.settings.variables import VARIABLES
from domain.errors import ConfigurationError
from domain.policies.admission import Bounds
from domain.roles import Role


def load_settings(environ: Mapping[str, str], dotenv: Path | None = None) -> Settings:
    """Settings from the environment, and from a .env file for what the environment leaves open.

    Raises:
        ConfigurationError: something can't be used. Its message has one line for every mistake.
    """
    given = dict(_read_dotenv(dotenv)) | dict(environ)
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for variable in VARIABLES:
        written = given.get(variable.name, "").strip() or variable.default
        try:
            values[variable.name] = variable.parse(written)
        except ValueError as error:
            is_secret = variable.is_secret or isinstance(error, SecretValueError)
            shown = "" if is_secret else f" is '{written}'; it"
            mistakes.append(f"{variable.name}{shown} {error}.")
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    return Settings(
        host=values["HOST"],
        port=values["PORT"],
        api_processes=values["API_PROCESSES"],
        log_level=values["LOG_LEVEL"],
        engine_log_level=values["ENGINE_LOG_LEVEL"],
        cache_dir=values["MEMORIA_CACHE_DIR"],
        api=ApiOptions(
            max_body_bytes=values["MAX_BODY_BYTES"],
            allow_unknown_fields=values["ALLOW_UNKNOWN_FIELDS"],
            keep_alive_s=values["SSE_KEEP_ALIVE_S"],
        ),
        embed=_role_settings(Role.EMBED, values),
        generate=_role_settings(Role.GENERATE, values),
        request_timeout_s=values["REQUEST_TIMEOUT_S"],
        drain_timeout_s=values["DRAIN_TIMEOUT_S"],
        hang_timeout_s=values["HANG_TIMEOUT_S"],
        embedding_policies=EmbeddingPolicies(join=values["EMBED_JOIN"], cache_bytes=values["EMBED_CACHE"]),
        http=HttpOptions(
            connect_timeout_s=values["HTTP_CONNECT_TIMEOUT_S"],
            read_timeout_s=values["HTTP_READ_TIMEOUT_S"],
            retries=values["HTTP_RETRIES"],
            retry_share=values["HTTP_RETRY_SHARE"],
            breaker_failures=values["HTTP_BREAKER_FAILURES"],
            breaker_cool_down_s=values["HTTP_BREAKER_COOL_DOWN_S"],
        ),
        security=SecuritySettings(
            api_keys=values["API_KEYS"],
            api_keys_file=values["API_KEYS_FILE"],
            requests_per_minute=values["KEY_REQUESTS_PER_MINUTE"],
            tokens_per_minute=values["KEY_TOKENS_PER_MINUTE"],
            cors_origins=values["CORS_ORIGINS"],
            tls_cert_file=values["TLS_CERT_FILE"],
            tls_key_file=values["TLS_KEY_FILE"],
            max_connections=values["MAX_CONNECTIONS"],
            client_timeout_s=values["CLIENT_TIMEOUT_S"],
        ),
        telemetry=TelemetrySettings(
            log_format=values["LOG_FORMAT"],
            request_log=values["REQUEST_LOG"],
            metrics=values["METRICS"],
            engine_metrics=values["ENGINE_METRICS"],
            traces=otlp.signal(values, otlp.TRACES),
            metrics_export=otlp.signal(values, otlp.METRICS),
            metrics_interval_ms=values["OTEL_METRIC_EXPORT_INTERVAL"],
            service_name=otlp.service_name(values, given),
            capture_content=values["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"],
            environment=_otel_environment(given),
        ),
    )


def _otel_environment(given: Mapping[str, str]) -> dict[str, str]:
    """OpenTelemetry's variables that say something else than nothing at all would."""
    defaults = {variable.name: variable.default for variable in VARIABLES}
    values = {name: value.strip() for name, value in given.items() if name.startswith("OTEL_")}
    return {name: value for name, value in values.items() if value and value != defaults.get(name)}


def unknown_names(dotenv: Path) -> list[str]:
    """Warnings for names in a .env file that look like ours, misspelled. Other programs' names are theirs."""
    known = [variable.name for variable in VARIABLES] + [variable.name for variable in COMPOSE_VARIABLES]
    warnings: list[str] = []
    for name in _read_dotenv(dotenv):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if name not in known and name not in otlp.FOR_THE_SDK and near:
            warnings.append(f"{dotenv.name} sets {name}, which nothing reads. Did you mean {near[0]}?")
    return warnings


def _read_dotenv(path: Path | None) -> dict[str, str]:
    if path is None or not path.is_file():
        return {}
    try:
        return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path.name} can't be read: {error}. It must be text in UTF-8.") from error


def _role_settings(role: Role, values: Mapping[str, Any]) -> RoleSettings:
    r = PREFIX[role]
    return RoleSettings(
        backend=values[f"{r}_BACKEND"],
        model=values[f"MODEL_{r}_NAME"],
        aliases=values[f"MODEL_{r}_ALIASES"],
        urls=values[f"VLLM_{r}_URL"],
        api_key=values[f"VLLM_{r}_API_KEY"],
        args=values[f"VLLM_{r}_ARGS"],
        gpu_memory=values[f"VLLM_{r}_GPU_MEMORY"],
        max_model_len=values[f"VLLM_{r}_MAX_MODEL_LEN"],
        bounds=Bounds(
            max_running=values[f"{r}_MAX_RUNNING"],
            max_waiting=values[f"{r}_MAX_WAITING"],
            max_running_tokens=values[f"{r}_MAX_RUNNING_TOKENS"],
            max_waiting_tokens=values[f"{r}_MAX_WAITING_TOKENS"],
        ),
        tokenizer=values.get(f"VLLM_{r}_TOKENIZER"),
    )
