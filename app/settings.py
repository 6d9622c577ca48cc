"""Configuration: read once, from a mapping, into one immutable struct.

`VARIABLES` is the only list of what can be set. `.env.example` and the README's table are
printed from it (`python -m app.settings [--readme]`), and tests hold both against it.
"""

import difflib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import platformdirs
from dotenv import dotenv_values

from app import otlp_settings as otlp
from app.api_options import ApiOptions
from app.compose_variables import COMPOSE_VARIABLES
from domain.backend import Role
from domain.errors import ConfigurationError
from domain.policies.admission import Bounds

LOG_FORMATS = ("auto", "text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
INPROCESS, HTTP = "vllm-inprocess", "vllm-http"
YES, NO = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
KEY_RULE = "must be keys of 8 to 256 visible ASCII characters, separated by commas"
PREFIX = {Role.EMBED: "EMBED", Role.GENERATE: "GEN"}


class GpuMemory(msgspec.Struct, frozen=True):
    """Memory of the card for one engine: a share of it, or a size. One of the two is set."""

    fraction: float | None = None
    gib: float | None = None


class RoleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set for one engine."""

    backend: str
    model: str | None
    aliases: tuple[str, ...]
    urls: tuple[str, ...]
    api_key: str | None
    args: str
    gpu_memory: GpuMemory | None
    bounds: Bounds
    tokenizer: str | None = None
    """Folder, file or hub name, for the embedding role over HTTP."""


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How servers are dealt with that are reached over HTTP."""

    connect_timeout_s: float
    read_timeout_s: float
    retries: int
    retry_share: float
    breaker_failures: int
    breaker_cool_down_s: float


class EmbeddingPolicies(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between the API and the embedding engine."""

    join: bool | None
    """Join requests of several clients; None where it pays, which is over HTTP."""
    cache_bytes: int
    """0 for no cache."""


class SecuritySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who may use the service, and how much of it."""

    api_keys: tuple[str, ...] = ()
    api_keys_file: Path | None = None
    requests_per_minute: int = 0
    """Of one key that has no limit of its own; 0 for none."""
    tokens_per_minute: int = 0
    cors_origins: tuple[str, ...] = ()
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    max_connections: int = 1000
    client_timeout_s: float = 30.0
    """0 for never."""

    def __repr__(self) -> str:
        """Without the keys, wherever it is printed."""
        return f"SecuritySettings({len(self.api_keys)} keys)"


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service tells of itself, and where."""

    log_format: str
    """One of LOG_FORMATS; auto is text on a terminal and JSON elsewhere."""
    request_log: bool
    metrics: bool
    """Whether there is a page for Prometheus."""
    engine_metrics: bool
    """Whether engines in process count for it, too."""
    traces: otlp.OtlpSignal | None
    """None if traces are not exported, and then none are made."""
    metrics_export: otlp.OtlpSignal | None
    metrics_interval_ms: int
    service_name: str
    capture_content: bool
    environment: Mapping[str, str]
    """All of OpenTelemetry's variables that are set, for the SDK and for engine processes."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set."""

    host: str
    port: int
    api_processes: int
    log_level: str
    engine_log_level: str
    cache_dir: Path
    api: ApiOptions
    embed: RoleSettings
    generate: RoleSettings
    request_timeout_s: float
    drain_timeout_s: float
    hang_timeout_s: float
    embedding_policies: EmbeddingPolicies
    http: HttpOptions
    telemetry: TelemetrySettings
    security: SecuritySettings = SecuritySettings()

    def role(self, role: Role) -> RoleSettings:
        """The part for one engine."""
        return self.embed if role is Role.EMBED else self.generate


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One environment variable."""

    name: str
    default: str
    """As it would be written; empty means unset."""
    parse: Callable[[str], Any]
    """Raises ValueError with a sentence that says what is allowed."""
    about: str
    """What it is for, with its unit."""
    is_secret: bool = False


def _text(value: str) -> str | None:
    return value or None


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]+", value):
        raise ValueError("must be an address or host name, such as 127.0.0.1 or 0.0.0.0")
    return value


def _port(value: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value) <= 65535):
        raise ValueError("must be a whole number from 0 (any free port) to 65535")
    return int(value)


def _positive_int(value: str) -> int:
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ValueError("must be a whole number of at least 1")
    return int(value)


def _limit(value: str) -> int:
    if not re.fullmatch(r"\d{1,12}", value, re.ASCII):
        raise ValueError("must be a whole number, or 0 for no limit")
    return int(value)


def _seconds(value: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", value, re.ASCII):
        raise ValueError("must be a number of seconds, such as 15, or 0 for never")
    return float(value)


def _positive_seconds(value: str) -> float:
    if not _seconds(value):
        raise ValueError("must be a number of seconds above 0, such as 30")
    return _seconds(value)


def _bytes(value: str) -> int:
    size = re.fullmatch(r"(\d{1,15})\s*(KiB|MiB|GiB)?", value, re.ASCII | re.IGNORECASE)
    if not size:
        raise ValueError("must be a number of bytes, or a size such as 256MiB; 0 for none")
    return int(size[1]) * {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}[(size[2] or "").lower()]


def _yes_or_no(value: str) -> bool:
    if value.lower() not in YES | NO:
        raise ValueError("must be true or false")
    return value.lower() in YES


def _auto_or_yes_or_no(value: str) -> bool | None:
    if value.lower() == "auto":
        return None
    if value.lower() not in YES | NO:
        raise ValueError("must be auto, true or false")
    return value.lower() in YES


def _log_level(value: str) -> str:
    if value.lower() not in LOG_LEVELS:
        raise ValueError(f"must be one of {', '.join(LOG_LEVELS)}")
    return value.lower()


def _log_format(value: str) -> str:
    if value.lower() not in LOG_FORMATS:
        raise ValueError(f"must be one of {', '.join(LOG_FORMATS)}")
    return value.lower()


def _folder(value: str) -> Path:
    try:
        folder = Path(value).expanduser() if value else platformdirs.user_cache_path("memoria-vllm")
        is_file = folder.exists() and not folder.is_dir()
    except (OSError, RuntimeError):
        raise ValueError("must be a folder that can exist on this machine") from None
    if is_file:
        raise ValueError("must be a folder, and this is a file")
    return folder


def _backend(value: str) -> str:
    if value in (INPROCESS, HTTP) or re.fullmatch(r"[A-Za-z_][\w.]*[.:][A-Za-z_]\w*", value):
        return value
    near = difflib.get_close_matches(value, (INPROCESS, HTTP), n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"must be {INPROCESS}, {HTTP} or the dotted path of a factory{meant}")


def _whole(value: str) -> int:
    if not re.fullmatch(r"\d{1,4}", value, re.ASCII):
        raise ValueError("must be a whole number from 0 to 9999")
    return int(value)


def _time_limit(value: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", value, re.ASCII) or float(value) <= 0:
        raise ValueError("must be a number of seconds above 0, such as 5 or 0.5")
    return float(value)


def _share(value: str) -> float:
    if not re.fullmatch(r"[01](\.\d{1,4})?", value, re.ASCII) or float(value) > 1:
        raise ValueError("must be a share from 0 to 1, such as 0.2")
    return float(value)


def _urls(value: str) -> tuple[str, ...]:
    urls = tuple(_url(url.strip()) for url in value.split(","))
    if len({url.removesuffix("/v1") for url in urls}) < len(urls):
        raise ValueError("must not list one server twice")
    return urls


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        # A port that is no number, or brackets that do not close.
        is_usable = False
    if not is_usable or not re.fullmatch(r"https?://[^\s/?#]+(/v1)?/?", value):
        raise ValueError(
            "must be an address such as http://127.0.0.1:8100, with nothing behind it but /v1, or a list of them"
        )
    return value.rstrip("/")


def _names(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


def _keys(value: str) -> tuple[str, ...]:
    keys = _names(value)
    if not all(is_usable_key(key) for key in keys):
        raise ValueError(KEY_RULE)
    return keys


def is_usable_key(key: str) -> bool:
    """Whether it can be a key: it has to fit in a header, and not be guessed."""
    return re.fullmatch(r"[!-~]{8,256}", key) is not None


def _file(value: str) -> Path | None:
    try:
        return Path(value).expanduser() if value else None
    except RuntimeError:
        raise ValueError("must be a file on this machine") from None


def _origins(value: str) -> tuple[str, ...]:
    origins = _names(value)
    if not all(re.fullmatch(r"\*|https?://[A-Za-z0-9.\[\]:-]+", origin) for origin in origins):
        raise ValueError("must be origins such as https://app.example.com, separated by commas, or * for all")
    return origins


def _gpu_memory(value: str) -> GpuMemory | None:
    if not value:
        return None
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|GB|G)?", value, re.IGNORECASE)
    amount = float(size[1]) if size else 0.0
    if size and size[2] and amount > 0:
        return GpuMemory(gib=amount)
    if size and 0 < amount < 1:
        return GpuMemory(fraction=amount)
    raise ValueError("must be a share of the card between 0 and 1, such as 0.25, or a size such as 6GiB")


def _role_variables(role: Role, port: int, what: str, running: int) -> tuple[Variable, ...]:
    r = PREFIX[role]
    return (
        Variable(
            name=f"MODEL_{r}_NAME",
            default="",
            parse=_text,
            about=f"{what} model: a hub name, a local folder, or a packaged model's name. Unset: by the machine.",
        ),
        Variable(
            name=f"MODEL_{r}_ALIASES",
            default="",
            parse=_names,
            about=f"More names under which clients may ask for the {what.lower()} model, separated by commas.",
        ),
        Variable(
            name=f"{r}_BACKEND",
            default=INPROCESS,
            parse=_backend,
            about=f"Where the {what.lower()} engine runs: {INPROCESS}, {HTTP}, or a dotted path to a factory.",
        ),
        Variable(
            name=f"VLLM_{r}_URL",
            default=f"http://127.0.0.1:{port}",
            parse=_urls,
            about=f"Address of the {what.lower()} vLLM server, or several with commas, for {r}_BACKEND={HTTP}.",
        ),
        Variable(
            name=f"VLLM_{r}_API_KEY",
            default="",
            parse=_text,
            is_secret=True,
            about=f"Key that the {what.lower()} vLLM server asks for, for {r}_BACKEND={HTTP}.",
        ),
        Variable(
            name=f"VLLM_{r}_ARGS",
            default="",
            parse=str,
            about=f"More flags for the {what.lower()} engine, spelled as for vllm serve; {INPROCESS} and compose.",
        ),
        Variable(
            name=f"VLLM_{r}_GPU_MEMORY",
            default="",
            parse=_gpu_memory,
            about=f"GPU memory of the {what.lower()} engine: a share (0.25) or a size (6GiB); {INPROCESS} only.",
        ),
        Variable(
            name=f"{r}_MAX_RUNNING",
            default=str(running),
            parse=_positive_int,
            about=f"Requests that the {what.lower()} engine is given at a time; more wait.",
        ),
        Variable(
            name=f"{r}_MAX_WAITING",
            default="1024",
            parse=_whole,
            about=f"Requests that may wait for the {what.lower()} engine; one more gets status 429.",
        ),
        Variable(
            name=f"{r}_MAX_RUNNING_TOKENS",
            default="1000000",
            parse=_positive_int,
            about=f"Tokens, estimated, that the {what.lower()} engine is given at a time, answers included.",
        ),
        Variable(
            name=f"{r}_MAX_WAITING_TOKENS",
            default="4000000",
            parse=_positive_int,
            about=f"Tokens, estimated, that may wait for the {what.lower()} engine.",
        ),
    )


EMBED_VARIABLES = (
    Variable(
        name="VLLM_EMBED_TOKENIZER",
        default="",
        parse=_text,
        about=f"Folder or tokenizer.json of the embedding model, to join requests over {HTTP}. Unset: looked for.",
    ),
    Variable(
        name="EMBED_JOIN",
        default="auto",
        parse=_auto_or_yes_or_no,
        about=f"Whether waiting embedding requests travel together: true, false, or auto, which is over {HTTP}.",
    ),
    Variable(
        name="EMBED_CACHE",
        default="0",
        parse=_bytes,
        about="Memory for vectors that were asked for before, in bytes or as 256MiB; 0 for no cache.",
    ),
)
ROLE_VARIABLES = {
    Role.EMBED: _role_variables(Role.EMBED, 8100, "Embedding", 512) + EMBED_VARIABLES,
    Role.GENERATE: _role_variables(Role.GENERATE, 8101, "Generation", 256),
}
SERVICE_VARIABLES = (
    Variable(
        name="HOST",
        default="127.0.0.1",
        parse=_host,
        about="Address to listen on. 0.0.0.0 opens the service to the network: set API_KEYS then.",
    ),
    Variable(name="PORT", default="8200", parse=_port, about="TCP port to listen on; 0 takes any free one."),
    Variable(
        name="API_PROCESSES",
        default="1",
        parse=_positive_int,
        about=f"Processes that serve the port: more than 1 only for a gateway (both engines over {HTTP}).",
    ),
    Variable(
        name="LOG_LEVEL",
        default="info",
        parse=_log_level,
        about="Level of the service's own log: debug, info, warning or error.",
    ),
    Variable(
        name="ENGINE_LOG_LEVEL",
        default="error",
        parse=_log_level,
        about="Level of vLLM's own log: debug, info, warning, or error, which tells only why an engine failed.",
    ),
    Variable(
        name="MEMORIA_CACHE_DIR",
        default="",
        parse=_folder,
        about="Folder for prepared models. Unset: memoria-vllm in the user's cache folder.",
    ),
    Variable(
        name="MAX_BODY_BYTES",
        default="33554432",
        parse=_positive_int,
        about="Largest request body in bytes; a larger one gets status 413.",
    ),
    Variable(
        name="ALLOW_UNKNOWN_FIELDS",
        default="false",
        parse=_yes_or_no,
        about="Whether request fields that the API does not know are passed over (true) or refused (false).",
    ),
    Variable(
        name="SSE_KEEP_ALIVE_S",
        default="15",
        parse=_seconds,
        about="Silence in seconds after which a stream gets a comment, so that proxies keep it open; 0 for never.",
    ),
)
LIFE_VARIABLES = (
    Variable(
        name="REQUEST_TIMEOUT_S",
        default="600",
        parse=_seconds,
        about="Longest time of a request in seconds, waiting included; clients may ask for less. 0 for no limit.",
    ),
    Variable(
        name="DRAIN_TIMEOUT_S",
        default="30",
        parse=_seconds,
        about="Seconds that requests under way have to end after SIGTERM; a second signal ends them at once.",
    ),
    Variable(
        name="HANG_TIMEOUT_S",
        default="30",
        parse=_positive_seconds,
        about=f"Seconds without a sign of life after which an engine with work is restarted; {INPROCESS} only.",
    ),
)
HTTP_VARIABLES = (
    Variable(
        name="HTTP_CONNECT_TIMEOUT_S",
        default="5",
        parse=_time_limit,
        about=f"Seconds that a connection to a server may take, over {HTTP}.",
    ),
    Variable(
        name="HTTP_READ_TIMEOUT_S",
        default="600",
        parse=_time_limit,
        about=f"Longest silence in seconds of a server at work, over {HTTP}; then its request gets status 504.",
    ),
    Variable(
        name="HTTP_RETRIES",
        default="2",
        parse=_whole,
        about=f"Retries of a request that no server has begun to answer, over {HTTP}; 0 for none.",
    ),
    Variable(
        name="HTTP_RETRY_SHARE",
        default="0.2",
        parse=_share,
        about=f"Retries of all requests together, as a share of the requests, over {HTTP}.",
    ),
    Variable(
        name="HTTP_BREAKER_FAILURES",
        default="5",
        parse=_positive_int,
        about=f"Failures of a server to answer, one after the other, after which it is left alone, over {HTTP}.",
    ),
    Variable(
        name="HTTP_BREAKER_COOL_DOWN_S",
        default="5",
        parse=_time_limit,
        about=f"Seconds for which it is left alone at first, over {HTTP}.",
    ),
)
SECURITY_VARIABLES = (
    Variable(
        name="API_KEYS",
        default="",
        parse=_keys,
        is_secret=True,
        about="Keys that clients must have one of, separated by commas. Unset, as API_KEYS_FILE: open to all.",
    ),
    Variable(
        name="API_KEYS_FILE",
        default="",
        parse=_file,
        about="File with one key a line, and optionally its name and limits: alice KEY rpm=60 tpm=100000.",
    ),
    Variable(
        name="KEY_REQUESTS_PER_MINUTE",
        default="0",
        parse=_limit,
        about="Requests a minute for each key that has no limit of its own; 0 for no limit.",
    ),
    Variable(
        name="KEY_TOKENS_PER_MINUTE",
        default="0",
        parse=_limit,
        about="Tokens a minute, prompts and answers, for each key that has no limit of its own; 0 for no limit.",
    ),
    Variable(
        name="CORS_ORIGINS",
        default="",
        parse=_origins,
        about="Web sites whose pages may use the service, such as https://app.example.com, or * for all.",
    ),
    Variable(
        name="TLS_CERT_FILE",
        default="",
        parse=_file,
        about="Certificate chain in PEM, to serve https; needs TLS_KEY_FILE.",
    ),
    Variable(
        name="TLS_KEY_FILE",
        default="",
        parse=_file,
        about="Private key of TLS_CERT_FILE in PEM, without a password.",
    ),
    Variable(
        name="MAX_CONNECTIONS",
        default="1000",
        parse=_positive_int,
        about="Connections that each process takes at a time; further clients get status 503.",
    ),
    Variable(
        name="CLIENT_TIMEOUT_S",
        default="30",
        parse=_seconds,
        about="Seconds for a client to send its request, and to take what waits to be read; 0 for no limit.",
    ),
)
TELEMETRY_VARIABLES = (
    Variable(
        name="LOG_FORMAT",
        default="auto",
        parse=_log_format,
        about="Log lines as text or json; auto is text on a terminal and json elsewhere.",
    ),
    Variable(
        name="REQUEST_LOG",
        default="true",
        parse=_yes_or_no,
        about="Whether each request gets a line in the log, on the level info and without its content.",
    ),
    Variable(
        name="METRICS",
        default="true",
        parse=_yes_or_no,
        about="Whether there are metrics for Prometheus at /metrics.",
    ),
    Variable(
        name="ENGINE_METRICS",
        default="true",
        parse=_yes_or_no,
        about=f"Whether vLLM's own metrics are among the metrics; {INPROCESS} only.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_ENDPOINT",
        default="",
        parse=otlp.parse_endpoint,
        about="Where traces and metrics are sent (OTLP), such as http://127.0.0.1:4318. Unset: nowhere.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        default="",
        parse=otlp.parse_endpoint,
        about="Where traces are sent, with the whole path, such as http://127.0.0.1:6006/v1/traces.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        default="",
        parse=otlp.parse_endpoint,
        about="Where metrics are sent, with the whole path.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_PROTOCOL",
        default=otlp.HTTP_PROTOBUF,
        parse=otlp.one_of(otlp.PROTOCOLS),
        about="How they are sent: http/protobuf or grpc.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        default="",
        parse=otlp.one_of(otlp.PROTOCOLS),
        about="How traces are sent. Unset: as OTEL_EXPORTER_OTLP_PROTOCOL says.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        default="",
        parse=otlp.one_of(otlp.PROTOCOLS),
        about="How metrics are sent. Unset: as OTEL_EXPORTER_OTLP_PROTOCOL says.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_HEADERS",
        default="",
        parse=otlp.parse_headers,
        is_secret=True,
        about="Headers to send with them, such as authorization=Bearer%20KEY, separated by commas.",
    ),
    Variable(
        name="OTEL_TRACES_EXPORTER",
        default="otlp",
        parse=otlp.one_of(("otlp", "none")),
        about="otlp, or none to send no traces whatever the address.",
    ),
    Variable(
        name="OTEL_METRICS_EXPORTER",
        default="otlp",
        parse=otlp.one_of(("otlp", "none")),
        about="otlp, or none to send no metrics whatever the address.",
    ),
    Variable(
        name="OTEL_TRACES_SAMPLER",
        default="parentbased_always_on",
        parse=otlp.one_of(otlp.SAMPLERS),
        about="Which traces are kept: parentbased_traceidratio keeps the share that OTEL_TRACES_SAMPLER_ARG says.",
    ),
    Variable(
        name="OTEL_TRACES_SAMPLER_ARG",
        default="",
        parse=otlp.parse_sampler_argument,
        about="Share of traces to keep, 0 to 1, for samplers by ratio. Unset: 1.",
    ),
    Variable(
        name="OTEL_METRIC_EXPORT_INTERVAL",
        default="60000",
        parse=otlp.parse_interval,
        about="Milliseconds between two exports of metrics.",
    ),
    Variable(
        name="OTEL_SERVICE_NAME",
        default=otlp.DEFAULT_SERVICE_NAME,
        parse=str,
        about="The service's name in traces and metrics.",
    ),
    Variable(
        name="OTEL_RESOURCE_ATTRIBUTES",
        default="",
        parse=otlp.parse_attributes,
        about="More about the service for traces and metrics, such as deployment.environment=test.",
    ),
    Variable(
        name="OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        default="false",
        parse=_yes_or_no,
        about="Whether spans hold prompts and answers. They may be private: think before you set it.",
    ),
    Variable(
        name="OTEL_SDK_DISABLED",
        default="false",
        parse=otlp.one_of(("true", "false")),
        about="true sends nothing at all.",
    ),
)
VARIABLES = (
    SERVICE_VARIABLES
    + LIFE_VARIABLES
    + SECURITY_VARIABLES
    + ROLE_VARIABLES[Role.EMBED]
    + ROLE_VARIABLES[Role.GENERATE]
    + HTTP_VARIABLES
    + TELEMETRY_VARIABLES
)


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
            shown = "" if variable.is_secret else f" is '{written}'; it"
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
        bounds=Bounds(
            max_running=values[f"{r}_MAX_RUNNING"],
            max_waiting=values[f"{r}_MAX_WAITING"],
            max_running_tokens=values[f"{r}_MAX_RUNNING_TOKENS"],
            max_waiting_tokens=values[f"{r}_MAX_WAITING_TOKENS"],
        ),
        tokenizer=values.get(f"VLLM_{r}_TOKENIZER"),
    )


def env_example() -> str:
    """The text of .env.example: every variable with what it is for and its default."""
    lines = ["# Copy to .env and change what you need. The environment wins over this file."]
    for variable in VARIABLES:
        lines += ["", f"# {variable.about}", f"#{variable.name}={variable.default}"]
    lines += [
        "",
        "",
        "# Only for containers: what deploy/compose*.yaml read besides. The service reads none of these.",
    ]
    for extra in COMPOSE_VARIABLES:
        lines += ["", f"# {extra.about}", f"#{extra.name}={extra.default}"]
    return "\n".join(lines) + "\n"


def readme_table() -> str:
    """The table of settings in the README."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    rows += [
        f"| `{variable.name}` | {f'`{variable.default}`' if variable.default else ''} | {variable.about} |"
        for variable in VARIABLES
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(readme_table() if "--readme" in sys.argv else env_example(), end="")
