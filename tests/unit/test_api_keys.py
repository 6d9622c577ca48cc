import hashlib
import hmac

import pytest

from app.http.api_keys import KeyRing, masked, read_keys
from app.settings import load_settings
from domain.errors import ConfigurationError

FIRST, SECOND = "sk-first-key", "sk-second-key"


def keys_of(**environ: str) -> KeyRing | None:
    return read_keys(load_settings(environ).security)


def mistake(**environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        keys_of(**environ)
    return str(caught.value)


@pytest.fixture
def from_file(tmp_path):
    def write(text: str, **environ: str) -> dict[str, str]:
        path = tmp_path / "keys"
        path.write_text(text)
        return {"API_KEYS_FILE": str(path), **environ}

    return write


def test_without_keys_there_is_no_key_ring():
    assert keys_of() is None


def test_only_the_keys_from_the_environment_are_found():
    ring = keys_of(API_KEYS=f"{FIRST}, {SECOND}")
    assert [ring.find(key.encode()).name for key in (FIRST, SECOND)] == ["key-1", "key-2"]
    for other in ("", FIRST[:-1], FIRST + "x", FIRST.upper(), f"{FIRST},{SECOND}"):
        assert ring.find(other.encode()) is None


def test_a_key_is_compared_with_every_key(monkeypatch):
    ring = keys_of(API_KEYS=f"{FIRST},{SECOND},sk-third-key")
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for text in (FIRST, SECOND, "sk-unknown"):
        compared.clear()
        ring.find(text.encode())
        assert compared == [key.digest for key in ring.keys]


def test_no_key_is_kept_as_text():
    ring = keys_of(API_KEYS=FIRST)
    assert ring.keys[0].digest == hashlib.sha256(FIRST.encode()).digest()
    assert FIRST not in repr(ring.keys)


def test_a_file_has_names_limits_and_comments(from_file):
    text = f"# who\n\n{FIRST}\n  alice {SECOND} rpm=60 tpm=1000\nsk-third-key tpm=5\nbob sk-base64-key== rpm=0\n"
    given = from_file(text, KEY_REQUESTS_PER_MINUTE="7", KEY_TOKENS_PER_MINUTE="70")
    found = [(key.name, key.requests_per_minute, key.tokens_per_minute) for key in keys_of(**given).keys]
    assert found == [("line-3", 7, 70), ("alice", 60, 1000), ("line-5", 7, 5), ("bob", 0, 70)]


def test_both_sources_are_added(from_file):
    ring = keys_of(**from_file(f"alice {SECOND}\n", API_KEYS=FIRST))
    assert [key.name for key in ring.keys] == ["key-1", "alice"]


@pytest.mark.parametrize(
    "line",
    ["short", "alice bob sk-third-key", "alice sk-third-key rpm=", "alice sk-third-key rpm=x", "a/b sk-third-key"],
)
def test_an_invalid_line_is_reported_by_its_number_only(from_file, line):
    message = mistake(**from_file(f"{FIRST}\n{line}\n"))
    assert message.startswith("API_KEYS_FILE, line 2: ")
    assert line not in message
    assert "sk-third-key" not in message


def test_a_missing_or_binary_file_is_reported(tmp_path):
    assert mistake(API_KEYS_FILE=str(tmp_path / "none")).startswith("API_KEYS_FILE is '")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "no text" in mistake(API_KEYS_FILE=str(tmp_path / "binary"))


def test_a_file_without_a_key_does_not_open_the_service_to_all(from_file):
    assert mistake(**from_file("# none yet\n")).startswith("API_KEYS_FILE holds no key")


def test_duplicates_are_reported_without_the_key(from_file):
    message = mistake(**from_file(f"alice {FIRST}\n", API_KEYS=FIRST))
    assert "same key" in message
    assert FIRST not in message
    assert "same name" in mistake(**from_file(f"alice {FIRST}\nalice {SECOND}\n"))


@pytest.mark.parametrize("name", ["KEY_REQUESTS_PER_MINUTE", "KEY_TOKENS_PER_MINUTE"])
def test_limits_without_keys_are_reported(name):
    assert mistake(**{name: "60"}).startswith(f"{name} is 60, but there are no keys")


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("", "***"),
        ("sk-short", "***"),
        ("x" * 15, "***"),
        ("sk-ab0123456789yz", "sk-ab***yz"),
        ("\x00\n-é90123456789yz", "??-?9***yz"),
    ],
)
def test_an_error_repeats_little_of_a_key(key, shown):
    assert masked(key) == shown
