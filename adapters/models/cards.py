"""What `nvidia-smi` tells of the first NVIDIA GPU beside its memory."""

import shutil
import subprocess

import msgspec

TIMEOUT_S = 20.0
MIB = 2**20
FIELDS = "name,driver_version,memory.total,memory.free,compute_cap"


class CardFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A card as its driver describes it."""

    name: str
    driver: str
    capability: tuple[int, int] | None
    """None from drivers that do not know the word."""
    total_bytes: int
    free_bytes: int


def first_card() -> CardFacts | None:
    """The first card, or None if there is none or its driver does not answer."""
    # Drivers before 510 refuse a query with a field that they do not know.
    return _ask(FIELDS) or _ask(FIELDS.removesuffix(",compute_cap"))


def _ask(fields: str) -> CardFacts | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _card(answer.stdout.split("\n")[0]) if answer.returncode == 0 else None


def _card(line: str) -> CardFacts | None:
    name, *rest = (part.strip() for part in line.split(","))
    if len(rest) < 3 or not all(part.isdigit() for part in rest[1:3]):
        return None
    return CardFacts(
        name=name,
        driver=rest[0],
        capability=_capability(rest[3]) if len(rest) > 3 else None,
        total_bytes=int(rest[1]) * MIB,
        free_bytes=int(rest[2]) * MIB,
    )


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
