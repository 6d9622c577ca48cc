"""Shorter vectors from models that were trained for several lengths (Matryoshka representation learning).

Such a model puts what matters most first, so that the beginning of a vector, made unit length again, is a good
vector itself. Most of these models do not say so in their configuration.

Source: Kusupati et al. 2022, "Matryoshka Representation Learning", and the cards of the models named below.
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
"""Parts of the names of models that are known to be trained so."""


def has_several_lengths(*names: str | None) -> bool:
    """Whether one of a model's names tells that it was trained for several lengths."""
    return any(family in name.lower() for name in names if name for family in FAMILIES)


def shorten(result: EmbeddingResult, dimensions: int) -> EmbeddingResult:
    """The first `dimensions` numbers of each vector, made unit length again.

    Args:
        result: vectors of at least that length.
        dimensions: the length that they shall have, at least 1.
    """
    numbers = array.array("f", result.vectors)
    short = array.array("f")
    for start in range(0, len(numbers), result.dimensions):
        row = numbers[start : start + dimensions]
        length = math.hypot(*row) or 1.0
        short.extend([number / length for number in row])
    return msgspec.structs.replace(result, vectors=short.tobytes(), dimensions=dimensions)
