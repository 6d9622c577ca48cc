"""Shortens vectors of models that were trained for several lengths (Matryoshka representation learning).

Such a model puts the most important information first, so that the beginning of a vector, normalized again, is a
good vector itself. Most of these models do not say so in their configuration.

Source: Kusupati et al. 2022, "Matryoshka Representation Learning", and the model cards of the models below.
"""

import array
import math

import msgspec

from domain.results import EmbeddingResult

FAMILIES = (
    "qwen3-embedding",
    "embeddinggemma",
    "jina-embeddings-v3",
    "mxbai-embed-large-v1",
    "nomic-embed-text-v1.5",
    "nomic-embed-text-v2",
    "snowflake-arctic-embed-m-v1.5",
    "snowflake-arctic-embed-m-v2.0",
    "snowflake-arctic-embed-l-v2.0",
)
"""Substrings of the names of known Matryoshka models."""


def is_matryoshka(*names: str | None) -> bool:
    """Whether one of a model's names is that of a known Matryoshka model."""
    return any(family in name.lower() for name in names if name for family in FAMILIES)


def shorten(result: EmbeddingResult, dimensions: int) -> EmbeddingResult:
    """Truncate each vector to its first `dimensions` numbers and normalize it to unit length.

    Args:
        result: vectors of at least that length.
        dimensions: the new length, at least 1.
    """
    numbers = array.array("f", result.vectors)
    short = array.array("f")
    for start in range(0, len(numbers), result.dimensions):
        row = numbers[start : start + dimensions]
        norm = math.hypot(*row) or 1.0
        short.extend([number / norm for number in row])
    return msgspec.structs.replace(result, vectors=short.tobytes(), dimensions=dimensions)
