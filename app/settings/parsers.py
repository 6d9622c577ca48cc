"""Parsers of settings.

Each parser takes a setting's text or default, and raises ValueError with a message that says what is allowed.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import platformdirs

from app.settings.values import AUTO, HTTP, INPROCESS, OFF
from domain.memory_plan import GpuBudget

LOG_FORMATS = ("auto", "text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
YES, NO = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
GIB_RULE = "must be a size such as 24GiB"
KEY_RULE = "must be keys of 8 to 256 visible ASCII characters, separated by commas"


class SecretValueError(ValueError):
    """A value is invalid and must not be repeated in messages."""


def parse_text(value: str) -> str | None:
    """Any text; None if empty."""
    return value or None


def parse_host(value: str) -> str:
    """An address or host name to listen on."""
    if not re.fullmatch(r"[A-Za-z0-9.:_-]+", value):
        raise ValueError("must be an address or host name, such as 127.0.0.1 or 0.0.0.0")
    return value


def parse_port(value: str) -> int:
    """A TCP port; 0 for any free one."""
    if not (value.isascii() and value.isdigit() and int(value) <= 65535):
        raise ValueError("must be a whole number from 0 (any free port) to 65535")
    return int(value)


def parse_positive_int(value: str) -> int:
    """A whole number of at least 1."""
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ValueError("must be a whole number of at least 1")
    return int(value)


def parse_optional_tokens(value: str) -> int | None:
    """A number of tokens; None if empty."""
    if value and not re.fullmatch(r"[1-9]\d{0,8}", value, re.ASCII):
        raise ValueError("must be a whole number of tokens, such as 8192")
    return int(value) if value else None


def parse_limit(value: str) -> int:
    """A whole number; 0 for no limit."""
    if not re.fullmatch(r"\d{1,12}", value, re.ASCII):
        raise ValueError("must be a whole number, or 0 for no limit")
    return int(value)


def parse_seconds(value: str) -> float:
    """A number of seconds; 0 for never or for no limit."""
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", value, re.ASCII):
        raise ValueError("must be a number of seconds, such as 15, or 0 for never")
    return float(value)


def parse_positive_seconds(value: str) -> float:
    """A number of seconds above 0."""
    if not parse_seconds(value):
        raise ValueError("must be a number of seconds above 0, such as 30")
    return parse_seconds(value)


def parse_bytes(value: str) -> int:
    """A number of bytes, with or without a unit; 0 for none."""
    size = re.fullmatch(r"(\d{1,15})\s*(KiB|MiB|GiB)?", value, re.ASCII | re.IGNORECASE)
    if not size:
        raise ValueError("must be a number of bytes, or a size such as 256MiB; 0 for none")
    return int(size[1]) * {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}[(size[2] or "").lower()]


def parse_size(value: str) -> int:
    """A number of bytes above 0, with or without a unit."""
    try:
        size = parse_bytes(value)
    except ValueError:
        size = 0
    if not size:
        raise ValueError("must be a number of bytes above 0, or a size such as 200MiB")
    return size


def parse_yes_or_no(value: str) -> bool:
    """A boolean."""
    if value.lower() not in YES | NO:
        raise ValueError("must be true or false")
    return value.lower() in YES


def parse_on_or_off(value: str) -> bool:
    """A switch."""
    if value.lower() not in YES | NO:
        raise ValueError("must be on or off")
    return value.lower() in YES


def parse_days(value: str) -> int:
    """A number of days; 0 for no limit."""
    if not re.fullmatch(r"\d{1,5}", value, re.ASCII):
        raise ValueError("must be a whole number of days, such as 30, or 0 for no limit")
    return int(value)


def parse_database(value: str) -> str | None:
    """The URL of an SQLite file or of a PostgreSQL database; None if empty. It may contain a password."""
    if not value:
        return None
    scheme, separator, rest = value.partition("://")
    if not separator or scheme.lower() not in ("sqlite", "postgresql", "postgres"):
        raise SecretValueError(
            "must be a URL that begins with sqlite:///, postgresql:// or postgres://, such as"
            " sqlite:////var/lib/memoria/state.sqlite3 or postgresql://user:password@host/database"
        )
    if scheme.lower() == "sqlite":
        if not re.fullmatch(r"/[^?#\0]*[^?#/\0]", rest) or rest == "/:memory:":
            raise SecretValueError(
                "must name a file after sqlite:///, without parameters; four slashes begin an absolute path"
            )
    else:
        _check_server(value)
    return f"{scheme.lower()}://{rest}"


def _check_server(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_usable = parts.port != 0 and bool(parts.path.strip("/")) and not parts.fragment
    except ValueError:
        # An invalid port, or unclosed brackets.
        is_usable = False
    if not is_usable:
        raise SecretValueError(
            "must be postgresql://user:password@host:port/database, with special characters of user and password"
            " percent-encoded"
        )


def parse_fail_or_skip(value: str) -> bool:
    """Whether something is skipped; otherwise it fails."""
    if value.lower() not in ("fail", "skip"):
        raise ValueError("must be fail or skip")
    return value.lower() == "skip"


def parse_auto_or_positive_int(value: str) -> int | None:
    """A whole number of at least 1; None if the service decides."""
    if value.lower() == "auto":
        return None
    if not re.fullmatch(r"[1-9]\d{0,5}", value, re.ASCII):
        raise ValueError("must be a whole number of at least 1, or auto")
    return int(value)


def parse_auto_or_yes_or_no(value: str) -> bool | None:
    """A boolean; None if the service decides."""
    if value.lower() == "auto":
        return None
    if value.lower() not in YES | NO:
        raise ValueError("must be auto, true or false")
    return value.lower() in YES


def parse_log_level(value: str) -> str:
    """One of LOG_LEVELS."""
    if value.lower() not in LOG_LEVELS:
        raise ValueError(f"must be one of {', '.join(LOG_LEVELS)}")
    return value.lower()


def parse_log_format(value: str) -> str:
    """One of LOG_FORMATS."""
    if value.lower() not in LOG_FORMATS:
        raise ValueError(f"must be one of {', '.join(LOG_FORMATS)}")
    return value.lower()


def parse_folder(value: str) -> Path:
    """A folder that exists or can be created; the user's cache folder if empty."""
    return _folder(value, platformdirs.user_cache_path)


def parse_data_folder(value: str) -> Path:
    """A folder that exists or can be created; the user's data folder if empty."""
    return _folder(value, platformdirs.user_data_path)


def _folder(value: str, default: Callable[[str], Path]) -> Path:
    try:
        folder = Path(value).expanduser() if value else default("memoria-vllm")
        is_file = folder.exists() and not folder.is_dir()
    except (OSError, RuntimeError):
        raise ValueError("must be a folder that can exist on this machine") from None
    if is_file:
        raise ValueError("must be a folder, but is a file")
    return folder


def parse_backend(value: str) -> str:
    """INPROCESS, HTTP, OFF, AUTO, or the dotted path of a factory."""
    known = (INPROCESS, HTTP, OFF, AUTO)
    if value in known or re.fullmatch(r"[A-Za-z_][\w.]*[.:][A-Za-z_]\w*", value):
        return value
    near = difflib.get_close_matches(value, known, n=1)
    suggestion = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"must be {INPROCESS}, {HTTP}, {OFF} or the dotted path of a factory{suggestion}")


def parse_whole(value: str) -> int:
    """A whole number from 0 to 9999."""
    if not re.fullmatch(r"\d{1,4}", value, re.ASCII):
        raise ValueError("must be a whole number from 0 to 9999")
    return int(value)


def parse_time_limit(value: str) -> float:
    """A number of seconds above 0, for limits that can't be switched off."""
    if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", value, re.ASCII) or float(value) <= 0:
        raise ValueError("must be a number of seconds above 0, such as 5 or 0.5")
    return float(value)


def parse_share(value: str) -> float:
    """A share from 0 to 1."""
    if not re.fullmatch(r"[01](\.\d{1,4})?", value, re.ASCII) or float(value) > 1:
        raise ValueError("must be a share from 0 to 1, such as 0.2")
    return float(value)


def parse_number(value: str) -> float:
    """A number from 0 to 9999."""
    if not re.fullmatch(r"\d{1,4}(\.\d{1,4})?", value, re.ASCII) or float(value) > 9999:
        raise ValueError("must be a number from 0 to 9999, such as 0.05 or 4")
    return float(value)


def parse_urls(value: str) -> tuple[str, ...]:
    """Comma-separated addresses of servers."""
    urls = tuple(_url(url.strip()) for url in value.split(","))
    if len({url.removesuffix("/v1") for url in urls}) < len(urls):
        raise ValueError("must not list one server twice")
    return urls


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        # An invalid port, or unclosed brackets.
        is_usable = False
    if not is_usable or not re.fullmatch(r"https?://[^\s/?#]+(/v1)?/?", value):
        raise ValueError(
            "must be an address such as http://127.0.0.1:8100, with no path except /v1, or several of them"
        )
    return value.rstrip("/")


def parse_names(value: str) -> tuple[str, ...]:
    """Comma-separated names, without duplicates."""
    return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


def parse_keys(value: str) -> tuple[str, ...]:
    """Comma-separated keys, without duplicates."""
    keys = parse_names(value)
    if not all(is_usable_key(key) for key in keys):
        raise ValueError(KEY_RULE)
    return keys


def is_usable_key(key: str) -> bool:
    """Whether a text can be a key: valid in a header, and long enough not to be guessed."""
    return re.fullmatch(r"[!-~]{8,256}", key) is not None


def parse_file(value: str) -> Path | None:
    """A file, whose existence is not checked; None if empty."""
    try:
        return Path(value).expanduser() if value else None
    except RuntimeError:
        raise ValueError("must be a file on this machine") from None


def parse_origins(value: str) -> tuple[str, ...]:
    """Comma-separated origins of web pages, or * for all."""
    origins = parse_names(value)
    if not all(re.fullmatch(r"\*|https?://[A-Za-z0-9.\[\]:-]+", origin) for origin in origins):
        raise ValueError("must be origins such as https://app.example.com, separated by commas, or * for all")
    return origins


def parse_gib(value: str) -> float | None:
    """The number of GiB in a size such as 24GiB; GB and G mean the same. None if it is not a size above 0."""
    size = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*(GiB|GB|G)", value, re.IGNORECASE | re.ASCII)
    return (float(size[1]) or None) if size else None


def parse_gpu_memory(value: str) -> GpuBudget | None:
    """A share of the GPU's memory, or a size; None if empty."""
    if not value:
        return None
    gib = parse_gib(value)
    if gib is not None:
        return GpuBudget(gib=gib)
    if re.fullmatch(r"\d{1,6}(\.\d{1,9})?", value, re.ASCII) and 0 < float(value) < 1:
        return GpuBudget(fraction=float(value))
    raise ValueError("must be a share of the card between 0 and 1, such as 0.25, or a size such as 6GiB")


_BY_BOUNDS: Mapping[tuple[object, ...], Callable[[str], Any]] = {
    (int, 1, None, None): parse_positive_int,
    (int, 0, None, 9999): parse_whole,
    (float, None, 0, None): parse_time_limit,
    (float, 0, None, 1): parse_share,
    (float, 0, None, 9999): parse_number,
}


def parser_of(kind: type, bounds: msgspec.Meta) -> Callable[[str], Any]:
    """The parser for a number in a struct of the domain, by its type and bounds.

    Raises:
        KeyError: there is no parser for these bounds.
    """
    return _BY_BOUNDS[kind, bounds.ge, bounds.gt, bounds.le]
