"""Engine flags and memory: what the user's own say about it, and those that follow from a plan.

vLLM's parser judges the user's flags later; here only those are picked out that a plan has to respect.
"""

import re
import shlex
from typing import Any

import msgspec

from domain.memory_plan import EnginePlan
from domain.memory_plan.kv_cache import PLAIN

# Flags with which an engine holds more, or less, than the plan can tell, and the value that changes nothing.
UNPLANNED = {
    "--block-size": None, "--config": None, "--cpu-offload-gb": "0", "--cudagraph-capture-sizes": None,
    "--data-parallel-size": "1", "--decode-context-parallel-size": "1", "--device-ids": None,
    "--disable-hybrid-kv-cache-manager": None, "--disable-sliding-window": None, "--enable-lora": None,
    "--enable-sleep-mode": None, "--hf-overrides": None, "--kv-cache-dtype-skip-layers": None,
    "--kv-offloading-size": None, "--load-format": "auto", "--max-cudagraph-capture-size": None, "--nnodes": "1",
    "--no-enable-chunked-prefill": None, "--num-gpu-blocks-override": None, "--offload-group-size": "0",
    "--pipeline-parallel-size": "1", "--prefill-context-parallel-size": "1", "--quantization": None,
    "--quantization-config": None, "--spec-method": None, "--spec-model": None, "--spec-tokens": None,
    "--speculative-config": None, "--tensor-parallel-size": "1",
}  # fmt: skip
ALIASES = {
    "--device-memory-utilization": "--gpu-memory-utilization",
    "-dcp": "--decode-context-parallel-size", "-dp": "--data-parallel-size", "-n": "--nnodes",
    "-pcp": "--prefill-context-parallel-size", "-pp": "--pipeline-parallel-size", "-q": "--quantization",
    "-sc": "--speculative-config", "-tp": "--tensor-parallel-size",
}  # fmt: skip
"""Other names of the flags here; a test holds them against vLLM's own parser."""
LETTER = re.compile(r"-[nq](?=[^.=])")
"""A flag of one letter, with its value behind it in one word. No longer flag begins with these two."""
DUMMY = ("--load-format", "dummy")
"""Weights that are made up take as much memory as real ones."""
NUMBERS = {
    "--max-model-len": "context",
    "--max-num-batched-tokens": "batched_tokens",
    "--max-num-seqs": "sequences",
    "--kv-cache-memory-bytes": "cache_bytes",
}
SAID = {*NUMBERS, "--gpu-memory-utilization", "--kv-cache-dtype", "--enforce-eager", "--no-enforce-eager"}
SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class MemoryFlags(msgspec.Struct, frozen=True, kw_only=True):
    """What flags say; None and False for what they don't."""

    context: int | None = None
    batched_tokens: int | None = None
    sequences: int | None = None
    cache_bytes: int | None = None
    cache_dtype: str | None = None
    element_bytes: int | None = None
    share: float | None = None
    """Of the card."""
    eager: bool = False
    unplanned: str | None = None
    """A flag that the plan knows nothing of."""


def memory_flags(flags: str) -> MemoryFlags:
    """Pick out what a plan has to know. Flags that make no sense are left to vLLM's own parser.

    Args:
        flags: in the spelling of `vllm serve`, as one string.
    """
    try:
        words = shlex.split(flags)
    except ValueError:
        return MemoryFlags()
    found: dict[str, Any] = {}
    for flag, value in _pairs(words):
        if flag in UNPLANNED and value != UNPLANNED[flag] and (flag, value) != DUMMY:
            found["unplanned"] = flag
        elif flag in NUMBERS:
            found[NUMBERS[flag]] = _number(value)
        elif flag == "--kv-cache-dtype":
            found["cache_dtype"] = value
        elif flag == "--dtype":
            found["element_bytes"] = PLAIN.get(value)
        elif flag == "--gpu-memory-utilization":
            found["share"] = float(value) if re.fullmatch(r"0?\.\d+|1(\.0*)?", value) else None
        elif flag in ("--enforce-eager", "--no-enforce-eager"):
            found["eager"] = flag == "--enforce-eager"
    return MemoryFlags(**found)


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    """Flags with their values, "" for none."""
    pairs: list[tuple[str, str]] = []
    for word in words:
        if _is_flag(word):
            letter = LETTER.match(word)
            value = word[letter.end() :] if letter else word.partition("=")[2]
            pairs.append((flag_name(word), value))
        elif pairs and not pairs[-1][1]:
            pairs[-1] = (pairs[-1][0], word)
    return pairs


def flag_name(word: str) -> str:
    """The first name of the flag that a word is, or begins with.

    To vLLM underscores in a name are dashes, and what follows a point is a part of the flag's value.
    """
    letter = LETTER.match(word)
    name = letter[0] if letter else re.split(r"[=.]", word, maxsplit=1)[0].replace("_", "-")
    known = {*UNPLANNED, *SAID, *ALIASES}
    if name not in known and name.startswith("--"):
        # vLLM's parser takes the beginning of a name for all of it where only one begins so.
        whole = [each for each in known if each.startswith(name)]
        name = whole[0] if len(whole) == 1 else name
    return ALIASES.get(name, name)


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-\d+", word)


def _number(value: str) -> int | None:
    """A number as vLLM writes them, 8k and 1G included; None for auto and for what is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)", value)
    amount = int(float(found[1]) * SUFFIXES.get(found[2], 1)) if found else 0
    return amount or None


def plan_flags(plan: EnginePlan) -> dict[str, object]:
    """The flags that make an engine what its plan says.

    On the CPU vLLM's own batches are planned with, and only the cache is said, and the context if it is shorter
    than the model can. On a GPU the context is always said: what a model's own is vLLM reads in its own way.
    """
    flags: dict[str, object] = {}
    if plan.gpu_memory_utilization is not None:
        flags["--gpu-memory-utilization"] = plan.gpu_memory_utilization
    if plan.kv_cache_memory_bytes:
        flags["--kv-cache-memory-bytes"] = plan.kv_cache_memory_bytes
    if plan.limits_context or plan.gpu_memory_utilization is not None:
        flags["--max-model-len"] = plan.max_model_len
    if plan.gpu_memory_utilization is not None:
        flags["--max-num-batched-tokens"] = plan.max_num_batched_tokens
        flags["--max-num-seqs"] = plan.max_num_seqs
    return flags


def memory_arguments(plan: EnginePlan) -> str:
    """All flags that fix an engine's memory, as one string: for an engine that somebody else starts."""
    flags = plan_flags(plan)
    if plan.kv_cache_dtype != "auto":
        flags["--kv-cache-dtype"] = plan.kv_cache_dtype
    words = [str(word) for pair in flags.items() for word in pair]
    return " ".join([*words, "--enforce-eager"] if plan.enforce_eager else words)


def other_arguments(flags: str) -> str:
    """The user's flags without those that `memory_arguments` says."""
    try:
        words = shlex.split(flags)
    except ValueError:
        return flags
    kept: list[str] = []
    keep = True
    for word in words:
        if _is_flag(word):
            keep = flag_name(word) not in SAID
        if keep:
            kept.append(word)
    return shlex.join(kept)
