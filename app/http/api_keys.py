"""The API keys that clients may use: read at startup, kept as hashes, compared in constant time."""

import hashlib
import hmac
import re
from pathlib import Path

import msgspec

from app.settings import SecuritySettings, is_usable_key
from domain.errors import ConfigurationError

_LIMIT = re.compile(r"(rpm|tpm)=(\d{1,12})", re.ASCII)
_NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key, without its text."""

    name: str
    """Used in messages and the log in place of the key."""
    digest: bytes
    is_named: bool = False
    """Whether the name is the operator's, and not the key's place."""
    requests_per_minute: int
    """0 for no limit."""
    tokens_per_minute: int

    @property
    def owner(self) -> str:
        """Whose the responses are that are stored with this key: its name's, or else its own.

        A place could become another key's.
        """
        return self.name if self.is_named else f"sha256-{self.digest.hex()[:32]}"


class KeyRing:
    """All accepted keys."""

    def __init__(self, keys: list[ApiKey]) -> None:
        self.keys = keys

    def find(self, text: bytes) -> ApiKey | None:
        """The key with that text. Compares all of them, so that the time taken reveals nothing about any."""
        digest = _digest(text)
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def read_keys(security: SecuritySettings) -> KeyRing | None:
    """The keys from the settings and from the key file, or None if neither is set.

    Raises:
        ConfigurationError: the file can't be used, a key occurs twice, or limits are set without any key.
    """
    keys = [_key(f"key-{number}", text, security) for number, text in enumerate(security.api_keys, 1)]
    if security.api_keys_file is not None:
        keys += _from_file(security.api_keys_file, security)
        if not keys:
            # Naming a file means that the service should not be open to everyone.
            raise ConfigurationError("API_KEYS_FILE holds no key. Write one key a line, or unset it.")
    for one_of in ("name", "digest"):
        if len({getattr(key, one_of) for key in keys}) < len(keys):
            what = "name" if one_of == "name" else "key"
            raise ConfigurationError(f"API_KEYS and API_KEYS_FILE hold the same {what} more than once.")
    if keys:
        return KeyRing(keys)
    for variable, limit in (
        ("KEY_REQUESTS_PER_MINUTE", security.requests_per_minute),
        ("KEY_TOKENS_PER_MINUTE", security.tokens_per_minute),
    ):
        if limit:
            raise ConfigurationError(f"{variable} is {limit}, but there are no keys to limit. Set API_KEYS too.")
    return None


def masked(key: str) -> str:
    """A key as an error may repeat it: enough to recognize which one was sent, too little to use it."""
    shown = "".join(letter if "!" <= letter <= "~" else "?" for letter in key)
    return f"{shown[:5]}***{shown[-2:]}" if len(shown) >= 16 else "***"


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _key(name: str, text: str, security: SecuritySettings, *, is_named: bool = False, **limits: int) -> ApiKey:
    return ApiKey(
        name=name,
        is_named=is_named,
        digest=_digest(text.encode()),
        requests_per_minute=limits.get("rpm", security.requests_per_minute),
        tokens_per_minute=limits.get("tpm", security.tokens_per_minute),
    )


def _from_file(path: Path, security: SecuritySettings) -> list[ApiKey]:
    """Each line is `[name] key [rpm=n] [tpm=n]`; empty lines and those that begin with # are ignored."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigurationError(f"API_KEYS_FILE is '{path}', which can't be read: {why}.") from None
    keys: list[ApiKey] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        limits = {}
        while len(words) > 1 and (limit := _LIMIT.fullmatch(words[-1])):
            limits[limit[1]] = int(limit[2])
            words.pop()
        name = words[0] if len(words) == 2 else f"line-{number}"
        if len(words) > 2 or not is_usable_key(words[-1]) or not _NAME.fullmatch(name):
            # The line may contain a key, so it is not shown.
            raise ConfigurationError(
                f"API_KEYS_FILE, line {number}: must be a key of 8 to 256 visible ASCII characters, with an "
                "optional name before it and rpm=NUMBER, tpm=NUMBER behind it."
            )
        keys.append(_key(name, words[-1], security, is_named=len(words) == 2, **limits))
    return keys
