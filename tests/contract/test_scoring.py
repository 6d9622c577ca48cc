"""Contract of every backend for scores."""

import asyncio
import itertools
import math

import pytest

from app.commands.bench.tiny_models import CORPUS
from domain.errors import ContextLengthError, InvalidRequestError, WrongEndpointError
from domain.policies.splitting import PART_PAIRS
from domain.requests import EmbeddingRequest, GenerationRequest, ScoreRequest, TokenizeRequest
from domain.results import ScoreResult
from domain.sampling import SamplingParameters
from tests.contract.cases import CONTEXT, Case
from tests.contract.waiting import cancel_running
from tests.tiny_rerankers import DOCUMENTS, QUERY, cross_encoder_scores

EXACT = 1e-4


async def score(case: Case, queries: list[str], documents: list[str], **fields) -> ScoreResult:
    result = await case.backend.call(ScoreRequest(queries=queries, documents=documents, **fields), CONTEXT)
    assert len(result.scores) == len(documents)
    return result


async def score_of(case: Case, document: str, **fields) -> float:
    """The score of one document."""
    return (await score(case, [QUERY], [document], **fields)).scores[0]


def six_tokens(case: Case) -> str:
    """The first six tokens of a text that repeats `a b c`."""
    return "a b c " if case.is_fake else "a b c a b c"


async def test_scores_are_what_transformers_computes(reranker: Case) -> None:
    scores = (await score(reranker, [QUERY], DOCUMENTS)).scores
    if reranker.is_fake:
        wanted = [len({*QUERY} & {*text}) / len({*QUERY} | {*text}) for text in DOCUMENTS]
    else:
        assert reranker.folder is not None
        wanted = cross_encoder_scores(reranker.folder, [QUERY] * len(DOCUMENTS), DOCUMENTS)
    assert scores == pytest.approx(wanted, abs=EXACT)
    assert len({round(value, 3) for value in scores}) == len(DOCUMENTS), "the documents differ"


async def test_one_query_is_used_for_all_documents(reranker: Case) -> None:
    once = await score(reranker, [QUERY], DOCUMENTS)
    repeated = await score(reranker, [QUERY] * len(DOCUMENTS), DOCUMENTS)
    assert once.scores == pytest.approx(repeated.scores, abs=EXACT)
    assert once.prompt_tokens == repeated.prompt_tokens


async def test_each_query_has_its_document(reranker: Case) -> None:
    queries = [QUERY, CORPUS[1], CORPUS[2]]
    together = (await score(reranker, queries, DOCUMENTS[:3])).scores
    for query, document, value in zip(queries, DOCUMENTS[:3], together, strict=True):
        (alone,) = (await score(reranker, [query], [document])).scores
        assert value == pytest.approx(alone, abs=EXACT)


async def test_usage_counts_the_tokens_of_all_pairs(reranker: Case) -> None:
    first, second = [(await score(reranker, [QUERY], [text])).prompt_tokens for text in DOCUMENTS[:2]]
    assert (await score(reranker, [QUERY], DOCUMENTS[:2])).prompt_tokens == first + second
    assert first > len(reranker.tokenize(DOCUMENTS[0]))


async def test_many_documents_are_all_scored(reranker: Case) -> None:
    count = 2 * PART_PAIRS + 5
    texts = [f"{CORPUS[number % 4][:40]} {number}" for number in range(count)]
    scores = (await score(reranker, [QUERY], texts)).scores
    for position in (0, PART_PAIRS - 1, PART_PAIRS, count - 1):
        assert scores[position] == pytest.approx(
            (await score(reranker, [QUERY], [texts[position]])).scores[0], abs=EXACT
        )


async def test_raw_scores_keep_the_order(reranker: Case) -> None:
    activated = (await score(reranker, [QUERY], DOCUMENTS)).scores
    raw = (await score(reranker, [QUERY], DOCUMENTS, use_activation=False)).scores
    order = sorted(range(len(raw)), key=raw.__getitem__)
    assert order == sorted(range(len(raw)), key=activated.__getitem__)
    assert raw != pytest.approx(activated, abs=EXACT)
    if not reranker.is_fake:
        assert [1 / (1 + math.exp(-value)) for value in raw] == pytest.approx(activated, abs=EXACT)


async def test_a_pair_beyond_the_context_is_refused(reranker: Case) -> None:
    with pytest.raises(ContextLengthError) as caught:
        await score(reranker, [QUERY], ["fine", "a b c " * reranker.max_model_len])
    assert caught.value.param == "documents"
    assert str(reranker.max_model_len) in caught.value.message


async def test_a_pair_beyond_the_context_is_cut_if_asked(reranker: Case) -> None:
    long = "a b c " * reranker.max_model_len
    cut = await score(reranker, [QUERY], [long], truncate_prompt_tokens=-1)
    assert cut.prompt_tokens == reranker.max_model_len
    shorter = await score(reranker, [QUERY], [long], truncate_prompt_tokens=40)
    assert shorter.prompt_tokens == 40


async def test_documents_are_cut_by_themselves(reranker: Case) -> None:
    long = "a b c " * reranker.max_model_len
    (cut,) = (await score(reranker, [QUERY], [long], max_tokens_per_doc=6)).scores
    assert cut == pytest.approx(
        (await score(reranker, [QUERY], ["a b c " if reranker.is_fake else "a b c a b c"])).scores[0], abs=EXACT
    )
    assert (await score(reranker, [QUERY], ["a b"], max_tokens_per_doc=10**6)).scores == pytest.approx(
        (await score(reranker, [QUERY], ["a b"])).scores, abs=EXACT
    )


async def test_a_long_query_with_limited_documents_is_refused(reranker: Case) -> None:
    long = "a b c " * reranker.max_model_len
    with pytest.raises(InvalidRequestError):
        await score(reranker, [long], ["a b c d e f g h"], max_tokens_per_doc=6)


async def test_all_limits_apply_together(reranker: Case) -> None:
    long = "a b c " * reranker.max_model_len
    limits = {"max_tokens_per_query": 12, "max_tokens_per_doc": 20}
    both = await score(reranker, [long], [long], **limits)
    cut = await score(reranker, [long], [long], truncate_prompt_tokens=both.prompt_tokens - 1, **limits)
    assert cut.prompt_tokens == both.prompt_tokens - 1


async def test_a_limit_on_documents_leaves_truncation_to_the_other(reranker: Case) -> None:
    long = "a b c " * reranker.max_model_len
    limits = {"max_tokens_per_doc": 6, "truncate_prompt_tokens": -1}
    if reranker.name == "vllm-http":
        # A server cuts only the document then, even if the query is too long.
        with pytest.raises(InvalidRequestError) as caught:
            await score(reranker, [long], [long], **limits)
        assert "max_tokens_per_query" in caught.value.message
    else:
        assert (await score(reranker, [long], [long], **limits)).prompt_tokens == reranker.max_model_len


async def test_queries_are_cut_by_themselves(reranker: Case) -> None:
    (cut,) = (await score(reranker, ["a b c " * 9], ["a b"], max_tokens_per_query=6)).scores
    (same,) = (await score(reranker, [six_tokens(reranker)], ["a b"])).scores
    assert cut == pytest.approx(same, abs=EXACT)


async def test_an_empty_document_is_scored(reranker: Case) -> None:
    scores = (await score(reranker, [QUERY], ["", DOCUMENTS[0]])).scores
    assert scores[1] == pytest.approx(await score_of(reranker, DOCUMENTS[0]), abs=EXACT)


async def test_concurrent_requests_get_their_own_scores(reranker: Case) -> None:
    alone = (await score(reranker, [QUERY], DOCUMENTS)).scores
    found = await asyncio.gather(*(score(reranker, [QUERY], [text]) for text in DOCUMENTS * 4))
    assert [result.scores[0] for result in found] == pytest.approx(alone * 4, abs=EXACT)


async def test_cancellation_aborts_the_work(reranker: Case) -> None:
    numbers = itertools.count()

    def texts() -> list[str]:
        return [f"{CORPUS[number % 4]} {number}" for number in itertools.islice(numbers, 300)]

    await cancel_running(reranker, lambda: score(reranker, [QUERY], texts()))


async def test_other_operations_are_rejected(reranker: Case) -> None:
    generation = GenerationRequest(prompt="x", sampling=SamplingParameters())
    for request in (EmbeddingRequest(inputs=["x"]), generation):
        with pytest.raises(WrongEndpointError):
            await reranker.backend.call(request, CONTEXT)
    with pytest.raises(WrongEndpointError):
        await reranker.backend.stream(generation, CONTEXT).__aenter__()


async def test_scores_are_rejected_by_models_of_other_roles(generator: Case) -> None:
    with pytest.raises(WrongEndpointError):
        await generator.backend.call(ScoreRequest(queries=["x"], documents=["y"]), CONTEXT)


async def test_texts_are_tokenized(reranker: Case) -> None:
    result = await reranker.backend.call(TokenizeRequest(prompt=QUERY), CONTEXT)
    assert result.token_ids == reranker.tokenize(QUERY)
