"""How score requests are split, and scored by an embedding model."""

import asyncio

import pytest

import app.http.disconnect
from domain.policies.embedding_scores import EmbeddingScores
from domain.policies.splitting import PARALLEL_PARTS, PART_PAIRS, PART_TOKENS, SplittingBackend
from domain.port import RequestContext
from domain.requests import CHARACTERS_PER_TOKEN, ScoreRequest
from domain.roles import Role
from tests.fakes import DIMENSIONS, FakeBackend
from tests.unit.serving import NEVER_S, RERANK, Api, Leaving, serving
from tests.unit.waiting import until

CONTEXT = RequestContext(request_id="test")


@pytest.mark.parametrize(
    ("limits", "tokens"),
    [
        ({}, 3 * (1 + 101)),
        ({"max_tokens_per_doc": 10}, 3 * (1 + 10)),
        ({"max_tokens_per_doc": 1000}, 3 * (1 + 101)),
        ({"max_tokens_per_query": 5}, 3 * (1 + 101)),
        ({"truncate_prompt_tokens": 20}, 3 * 20),
        ({"truncate_prompt_tokens": -1}, 3 * (1 + 101)),
    ],
)
def test_the_estimate_counts_what_the_engine_reads(limits, tokens):
    """Long documents that are cut must not take the place, or the quota, of their whole length."""
    documents = ["x" * 100 * CHARACTERS_PER_TOKEN] * 3
    for queries in ["cat"], ["cat"] * 3:
        assert ScoreRequest(queries=queries, documents=documents, **limits).estimated_prompt_tokens == tokens


async def test_long_documents_are_scored_in_parts_of_limited_size():
    length = PART_TOKENS * CHARACTERS_PER_TOKEN // 3
    backend = FakeBackend(Role.RERANK, max_model_len=4 * length)
    await backend.start()
    documents = [letter * (length - CHARACTERS_PER_TOKEN) for letter in "abcde"]
    for queries, sizes in (
        # A query for all documents is not counted: it is part of every part.
        (["q" * 2 * length], [3, 2]),
        (["q" * length] * 5, [1] * 5),
        (["q"] * 5, [2, 2, 1]),
    ):
        backend.seen.clear()
        await SplittingBackend(backend).call(ScoreRequest(queries=queries, documents=documents), CONTEXT)
        assert [len(part.documents) for part in backend.seen] == sizes
        assert [text for part in backend.seen for text in part.documents] == documents


async def test_a_client_that_leaves_a_long_request_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(app.http.disconnect, "WATCH_AFTER_S", 0.0)
    settings = {"MODEL_RERANK_NAME": "fake-rerank", "RERANK_MAX_RUNNING": "2", "MAX_BODY_BYTES": "1000000"}
    async with serving(Api(settings=settings)) as running:
        await until(lambda: running.is_ready)
        running.reranker.delay_s = NEVER_S

        def load() -> tuple[int, int, int, int]:
            own = running.service.health().backends[Role.RERANK].queue
            return own.running, own.waiting, own.running_tokens, own.waiting_tokens

        client = Leaving({"query": "cat", "documents": ["dog"] * 100 * PART_PAIRS})
        call = asyncio.create_task(client.call(running.app, RERANK))
        await until(lambda: load()[:2] == (2, PARALLEL_PARTS - 2))
        client.leave.set()
        await call
        assert load() == (0, 0, 0, 0)
        assert running.reranker.running == 0


class WithSpecialTokens(FakeBackend):
    """Adds one token before and one after each text."""

    tokenized = 0

    async def _tokenize(self, request):
        self.tokenized += 1
        found = await super()._tokenize(request)
        found.token_ids[:] = [0, *found.token_ids, 0]
        return found


async def test_special_tokens_do_not_make_a_limit_exceed_the_context():
    """The engine would refuse such a limit, even for short texts."""
    backend = WithSpecialTokens(Role.EMBED)
    scores = EmbeddingScores(backend)
    await scores.start()
    for tokens, wanted in (
        (3, 5),
        (backend.max_model_len - 2, backend.max_model_len),
        (backend.max_model_len - 1, None),
    ):
        backend.seen.clear()
        await scores.call(ScoreRequest(queries=["cat"], documents=["dog"], max_tokens_per_doc=tokens), CONTEXT)
        assert {asked.inputs[0]: asked.truncate_prompt_tokens for asked in backend.seen} == {
            "cat": None,
            "dog": wanted,
        }
    assert backend.tokenized == 1


async def test_other_tasks_run_while_vectors_are_compared(monkeypatch):
    """Vectors of thousands of numbers would otherwise delay all other answers."""
    monkeypatch.setattr("domain.policies.embedding_scores.YIELD_AFTER", 2 * DIMENSIONS)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    scores = EmbeddingScores(FakeBackend(Role.EMBED))
    await scores.start()
    result = await scores.call(ScoreRequest(queries=["cat"], documents=["dog"] * 50), CONTEXT)
    other.cancel()
    assert len(result.scores) == 50
    assert turns >= 25
