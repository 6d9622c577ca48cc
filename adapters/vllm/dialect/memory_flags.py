"""Reads the memory-related vLLM flags of the user, and writes the flags of a memory plan.

vLLM's parser validates the user's flags later; this module reads only those that a plan has to respect.
"""

import re
import shlex
from typing import Any

import msgspec

from domain.memory_plan import EnginePlan
from domain.memory_plan.kv_cache import PLAIN

# Flags that change memory use in ways that the planner does not model, and the value without effect.
UNSUPPORTED = {
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
"""Other names of these flags; a test compares them with vLLM's parser."""
SHORT_FLAG = re.compile(r"-[nq](?=[^.=])")
"""A one-letter flag followed by its value without a space. No longer flag starts with either letter."""
DUMMY_WEIGHTS = ("--load-format", "dummy")
"""Dummy weights take as much memory as real ones."""
NUMBER_FIELDS = {
    "--max-model-len": "context",
    "--max-num-batched-tokens": "batched_tokens",
    "--max-num-seqs": "sequences",
    "--kv-cache-memory-bytes": "cache_bytes",
}
MEMORY_FLAGS = {
    *NUMBER_FIELDS, "--gpu-memory-utilization", "--kv-cache-dtype", "--enforce-eager", "--no-enforce-eager",
}  # fmt: skip
UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class MemoryFlags(msgspec.Struct, frozen=True, kw_only=True):
    """Values of memory-related flags; None or False if a flag is not set."""

    context: int | None = None
    batched_tokens: int | None = None
    sequences: int | None = None
    cache_bytes: int | None = None
    cache_dtype: str | None = None
    element_bytes: int | None = None
    share: float | None = None
    """Share of the GPU's memory, 0 … 1."""
    eager: bool = False
    unsupported: str | None = None
    """A flag that the planner does not support."""


def memory_flags(flags: str) -> MemoryFlags:
    """Read the flags that affect memory. Invalid flags are left to vLLM's parser.

    Args:
        flags: flags of `vllm serve`, as one string.
    """
    try:
        words = shlex.split(flags)
    except ValueError:
        return MemoryFlags()
    found: dict[str, Any] = {}
    for flag, value in _pairs(words):
        if flag in UNSUPPORTED and value != UNSUPPORTED[flag] and (flag, value) != DUMMY_WEIGHTS:
            found["unsupported"] = flag
        elif flag in NUMBER_FIELDS:
            found[NUMBER_FIELDS[flag]] = _number(value)
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
    """Pairs of flag and value; the value is "" if there is none."""
    pairs: list[tuple[str, str]] = []
    for word in words:
        if _is_flag(word):
            letter = SHORT_FLAG.match(word)
            value = word[letter.end() :] if letter else word.partition("=")[2]
            pairs.append((flag_name(word), value))
        elif pairs and not pairs[-1][1]:
            pairs[-1] = (pairs[-1][0], word)
    return pairs


def flag_name(word: str) -> str:
    """The primary name of the flag in a word, which may also contain its value.

    vLLM treats underscores in a name as dashes, and text after a dot as part of the flag's value.
    """
    letter = SHORT_FLAG.match(word)
    name = letter[0] if letter else re.split(r"[=.]", word, maxsplit=1)[0].replace("_", "-")
    known = {*UNSUPPORTED, *MEMORY_FLAGS, *ALIASES}
    if name not in known and name.startswith("--"):
        # vLLM's parser accepts an unambiguous prefix of a name.
        matches = [each for each in known if each.startswith(name)]
        name = matches[0] if len(matches) == 1 else name
    return ALIASES.get(name, name)


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-\d+", word)


def _number(value: str) -> int | None:
    """Parse a number as vLLM does, such as 8k or 1G; None for `auto` and for anything invalid."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)", value)
    amount = int(float(found[1]) * UNITS.get(found[2], 1)) if found else 0
    return amount or None


def plan_flags(plan: EnginePlan) -> dict[str, object]:
    """The flags that configure an engine as planned.

    On the CPU the plan uses vLLM's default batch sizes, so the flags set only the cache, and the context if it is
    shorter than the model's. On a GPU they always set the context: vLLM may derive another one from the model.
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
    """All flags that determine an engine's memory, as one string, for an engine started outside this service."""
    flags = plan_flags(plan)
    if plan.kv_cache_dtype != "auto":
        flags["--kv-cache-dtype"] = plan.kv_cache_dtype
    words = [str(word) for pair in flags.items() for word in pair]
    return " ".join([*words, "--enforce-eager"] if plan.enforce_eager else words)


def other_arguments(flags: str) -> str:
    """The user's flags without those that `memory_arguments` sets."""
    try:
        words = shlex.split(flags)
    except ValueError:
        return flags
    kept: list[str] = []
    keep = True
    for word in words:
        if _is_flag(word):
            keep = flag_name(word) not in MEMORY_FLAGS
        if keep:
            kept.append(word)
    return shlex.join(kept)
