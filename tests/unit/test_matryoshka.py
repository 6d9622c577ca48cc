import array
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.matryoshka import is_matryoshka, shorten
from domain.results import EmbeddingResult

numbers = st.floats(-1, 1, width=32)
matrices = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=4)
)


def result_of(*rows: list[float]) -> EmbeddingResult:
    vectors = b"".join(array.array("f", row).tobytes() for row in rows)
    return EmbeddingResult(vectors=vectors, dimensions=len(rows[0]), prompt_tokens=7)


def rows_of(result: EmbeddingResult) -> list[list[float]]:
    flat = array.array("f", result.vectors).tolist()
    return [flat[start : start + result.dimensions] for start in range(0, len(flat), result.dimensions)]


def test_vectors_are_truncated_and_normalized():
    short = shorten(result_of([3.0, 4.0, 12.0], [0.0, 2.0, 5.0]), 2)
    assert rows_of(short) == [pytest.approx([0.6, 0.8]), pytest.approx([0.0, 1.0])]
    assert (short.dimensions, short.prompt_tokens) == (2, 7)


def test_a_vector_that_begins_with_zeros_stays_zero():
    assert rows_of(shorten(result_of([0.0, 0.0, 1.0]), 2)) == [[0.0, 0.0]]


def test_the_full_length_of_a_unit_vector_changes_nothing():
    assert rows_of(shorten(result_of([0.6, 0.8]), 2)) == [pytest.approx([0.6, 0.8])]


@given(matrices, st.data())
@settings(max_examples=30, deadline=None)
def test_short_vectors_are_normalized_prefixes(rows, data):
    dimensions = data.draw(st.integers(1, len(rows[0])))
    short = rows_of(shorten(result_of(*rows), dimensions))
    assert [len(row) for row in short] == [dimensions] * len(rows)
    for before, after in zip(rows, short, strict=True):
        length = math.hypot(*before[:dimensions])
        if length > 1e-30:
            assert math.hypot(*after) == pytest.approx(1, abs=1e-5)
            assert after == pytest.approx([number / length for number in before[:dimensions]], abs=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3-Embedding-0.6B",
        "models/qwen3-embedding-8b",
        "google/embeddinggemma-300m",
        "nomic-ai/nomic-embed-text-v1.5",
        "Snowflake/snowflake-arctic-embed-l-v2.0",
        "jinaai/jina-embeddings-v3",
        "mixedbread-ai/mxbai-embed-large-v1",
    ],
)
def test_matryoshka_models_are_detected_by_any_of_their_names(name):
    assert is_matryoshka(name)
    assert is_matryoshka("my-alias", name)
    assert is_matryoshka(name, None)


@pytest.mark.parametrize(
    "name", ["all-MiniLM-L6-v2", "BAAI/bge-m3", "Qwen/Qwen3-0.6B", "nomic-ai/nomic-embed-text-v1", "", None]
)
def test_other_models_are_not_detected(name):
    assert not is_matryoshka(name)
    assert not is_matryoshka()
