"""Contract of every backend for embeddings."""

import array
import asyncio
import itertools
import math

import pytest

from app.commands.bench.tiny_models import CORPUS
from domain.errors import ContextLengthError, InvalidRequestError, TooManyTokensError, WrongEndpointError
from domain.requests import EmbeddingRequest, GenerationRequest
from domain.sampling import SamplingParameters
from tests.contract.cases import CONTEXT, Case
from tests.contract.waiting import cancel_running


async def embed(case: Case, inputs: list, dimensions: int | None = None, **fields) -> list[list[float]]:
    """Rows as lists of float."""
    request = EmbeddingRequest(inputs=inputs, dimensions=dimensions, **fields)
    result = await case.backend.call(request, CONTEXT)
    numbers = array.array("f", result.vectors).tolist()
    assert len(numbers) == len(inputs) * result.dimensions, "one contiguous buffer of n × d"
    return [numbers[start : start + result.dimensions] for start in range(0, len(numbers), result.dimensions)]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


async def test_vectors_have_unit_length(embedder: Case) -> None:
    for row in await embed(embedder, CORPUS):
        assert math.hypot(*row) == pytest.approx(1.0, abs=1e-4)


async def test_vectors_are_in_the_order_of_the_inputs(embedder: Case) -> None:
    together = await embed(embedder, CORPUS)
    for text, row in zip(CORPUS, together, strict=True):
        (alone,) = await embed(embedder, [text])
        assert cosine(alone, row) > 0.9999
    assert cosine(together[0], together[1]) < 0.9999, "different texts differ"


async def test_token_ids_and_text_give_the_same_vector(embedder: Case) -> None:
    ids = embedder.tokenize(CORPUS[0])
    (from_text,), (from_ids,) = await embed(embedder, [CORPUS[0]]), await embed(embedder, [ids])
    assert cosine(from_text, from_ids) > 0.9999


async def test_usage_counts_the_tokens_of_all_inputs(embedder: Case) -> None:
    result = await embedder.backend.call(EmbeddingRequest(inputs=CORPUS[:2]), CONTEXT)
    assert result.prompt_tokens == sum(len(embedder.tokenize(text)) for text in CORPUS[:2])


async def test_many_inputs_are_all_embedded(embedder: Case) -> None:
    texts = [f"{CORPUS[index % 4][:40]} {index}" for index in range(100)]
    rows = await embed(embedder, texts)
    (last,) = await embed(embedder, [texts[-1]])
    assert len(rows) == 100
    assert cosine(rows[-1], last) > 0.9999


async def test_an_input_longer_than_the_context_is_rejected(embedder: Case) -> None:
    with pytest.raises(ContextLengthError) as caught:
        await embed(embedder, [[5], [5] * (embedder.max_model_len + 1)])
    assert caught.value.param == "input"
    assert str(embedder.max_model_len) in caught.value.message


async def test_a_text_longer_than_the_context_is_rejected(embedder: Case) -> None:
    with pytest.raises(ContextLengthError):
        await embed(embedder, ["z1" * embedder.max_model_len * 2])


async def test_an_input_as_long_as_the_context_is_embedded(embedder: Case) -> None:
    (row,) = await embed(embedder, [[5] * embedder.max_model_len])
    assert math.hypot(*row) == pytest.approx(1.0, abs=1e-4)


async def test_a_token_outside_the_vocabulary_is_rejected(embedder: Case) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await embed(embedder, [[1, embedder.vocabulary + 1000]])
    assert (caught.value.param, caught.value.code) == ("input", "invalid_value")


async def test_the_native_dimensions_are_accepted(embedder: Case) -> None:
    (row,) = await embed(embedder, ["some text"])
    (same,) = await embed(embedder, ["some text"], dimensions=len(row))
    assert cosine(row, same) > 0.9999


async def test_unsupported_dimensions_are_rejected(embedder: Case) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await embed(embedder, ["some text"], dimensions=3)
    assert (caught.value.param, caught.value.code) == ("dimensions", "unsupported_value")


async def test_shorter_vectors_are_truncated_and_normalized(embedder: Case) -> None:
    (whole,) = await embed(embedder, ["some text"])
    size = embedder.lengths[0]
    (short,) = await embed(embedder, ["some text"], dimensions=size)
    assert len(short) == size < len(whole)
    assert math.hypot(*short) == pytest.approx(1.0, abs=1e-4)
    assert cosine(short, whole[:size]) > 0.9999


async def test_longer_inputs_are_truncated_on_request(embedder: Case) -> None:
    ids = embedder.tokenize(CORPUS[0] + CORPUS[1])
    (cut,), (short,) = await embed(embedder, [ids], truncate_prompt_tokens=5), await embed(embedder, [ids[:5]])
    assert cosine(cut, short) > 0.9999
    too_long = [[5] * (embedder.max_model_len + 9)]
    (cut,) = await embed(embedder, too_long, truncate_prompt_tokens=-1)
    assert math.hypot(*cut) == pytest.approx(1.0, abs=1e-4)


async def test_more_than_300000_tokens_are_rejected(embedder: Case) -> None:
    one = [5] * (embedder.max_model_len - 1)
    with pytest.raises(TooManyTokensError):
        await embed(embedder, [one] * (300_000 // len(one) + 1))


async def test_a_rejected_request_does_not_affect_concurrent_ones(embedder: Case) -> None:
    good = [embed(embedder, [text]) for text in CORPUS]
    results = await asyncio.gather(
        embed(embedder, [[1, embedder.vocabulary + 1000]]), *good, return_exceptions=True
    )
    assert isinstance(results[0], InvalidRequestError)
    assert all(len(rows) == 1 for rows in results[1:])


async def test_cancellation_aborts_the_work(embedder: Case) -> None:
    numbers = itertools.count()

    def texts() -> list[str]:
        """Unique texts, which no cache can answer."""
        return [f"{CORPUS[number % 4]} {number}" for number in itertools.islice(numbers, 500)]

    await cancel_running(embedder, lambda: embed(embedder, texts()))


async def test_generation_is_rejected(embedder: Case) -> None:
    request = GenerationRequest(prompt="x", sampling=SamplingParameters())
    with pytest.raises(WrongEndpointError):
        await embedder.backend.call(request, CONTEXT)
    with pytest.raises(WrongEndpointError):
        await embedder.backend.stream(request, CONTEXT).__aenter__()


async def test_a_probe_succeeds(embedder: Case) -> None:
    await embedder.backend.probe()
