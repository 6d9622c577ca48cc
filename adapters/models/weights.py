"""Reads the headers of safetensors files: name, type and size of each weight, without its data.

The format (safetensors documentation, "Format"): eight bytes with the header's length, then the header, a JSON
object that maps names to type, shape and offsets.
"""

import math
import re
import struct
from pathlib import Path
from typing import Any

import msgspec

LARGEST_HEADER = 100_000_000
"""The format's own limit."""


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """A weight."""

    name: str
    dtype: str
    """In safetensors' notation: BF16, F8_E4M3, …"""
    numbers: int
    bytes: int


def local_tensors(folder: Path) -> list[Tensor]:
    """All weights of a model in a folder; empty if safetensors files are missing."""
    files = _files(folder) or _complete(sorted(folder.glob("consolidated*.safetensors")))
    return [tensor for file in files for tensor in header(file)]


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map: dict[str, str] = msgspec.json.decode(index.read_bytes()).get("weight_map", {})
        files = [folder / name for name in sorted(set(weight_map.values()))]
        return files if all(file.is_file() for file in files) else []
    return _complete(sorted(folder.glob("model*.safetensors")))


def _complete(files: list[Path]) -> list[Path]:
    """The files, or none if their names show that some are missing, as after an interrupted download."""
    counts = [int(found[1]) for file in files if (found := re.search(r"-of-(\d+)", file.name))]
    return [] if counts and len(counts) < max(counts) else files


def header(file: Path) -> list[Tensor]:
    """The weights in one file; empty if the file is invalid."""
    with file.open("rb") as stream:
        start = stream.read(8)
        (length,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
        if not 2 <= length <= LARGEST_HEADER:
            return []
        try:
            entries: dict[str, Any] = msgspec.json.decode(stream.read(length), type=dict[str, Any])
            return [_tensor(name, entry) for name, entry in entries.items() if name != "__metadata__"]
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
            return []


def _tensor(name: str, entry: dict[str, Any]) -> Tensor:
    begin, end = entry["data_offsets"]
    return Tensor(name=name, dtype=entry["dtype"], numbers=math.prod(entry["shape"]), bytes=end - begin)
