"""Reranking models of other families, in process, with the scores that transformers computes."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from domain.errors import InvalidRequestError
from domain.port import ModelCard
from domain.requests import ScoreRequest
from domain.roles import Role
from tests.contract.cases import CONTEXT
from tests.processes import ENGINE_FLAGS, MAX_NUM_SEQS
from tests.tiny_rerankers import DOCUMENTS, QUERY, make_qwen3_reranker, qwen3_scores

pytestmark = pytest.mark.integration

EXACT = 1e-4
PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""As on the model card of Qwen3-Reranker."""
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class Reranker:
    def __init__(self, backend, card: ModelCard, folder: Path) -> None:
        self._backend, self.card, self._folder = backend, card, folder

    async def scores(self, documents: list[str], query: str = QUERY, **fields) -> list[float]:
        request = ScoreRequest(queries=[query], documents=documents, **fields)
        return (await self._backend.call(request, CONTEXT)).scores

    def wanted(self, documents: list[str], query: str = QUERY, instruction: str = INSTRUCTION) -> list[float]:
        """What transformers computes."""
        prompts = [PROMPT.format(query=query, document=text, instruction=instruction) for text in documents]
        return qwen3_scores(self._folder, prompts)


@pytest.fixture(scope="module")
async def qwen3(
    tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Reranker, None]:
    from adapters.vllm.inprocess.engine_args import default_flags, engine_setup, prepare_environment

    prepare_environment(log_level="error", offline=True)
    from adapters.vllm.inprocess.backend import VLLMInProcessBackend

    folder = make_qwen3_reranker(tmp_path_factory.mktemp("rerankers") / "tiny-qwen3", tiny_models["tiny-gen"])
    setup = engine_setup(
        role=Role.RERANK,
        model=str(folder),
        served_name=folder.name,
        defaults=default_flags(on_gpu=False, plan=None),
        flags=ENGINE_FLAGS,
        setting="VLLM_RERANK_ARGS",
    )
    backend = VLLMInProcessBackend(role=Role.RERANK, name=folder.name, setup=setup)
    card = await backend.start()
    yield Reranker(backend, card, folder)
    await backend.stop()


async def test_qwen3_scores_are_what_transformers_computes(qwen3: Reranker) -> None:
    documents = [*DOCUMENTS, "", "two\nlines\n", "😀 {{ x }}"]
    assert await qwen3.scores(documents) == pytest.approx(qwen3.wanted(documents), abs=EXACT)


async def test_qwen3_reads_the_instruction(qwen3: Reranker) -> None:
    found = await qwen3.scores(DOCUMENTS, instruction="Find cities.")
    assert found == pytest.approx(qwen3.wanted(DOCUMENTS, instruction="Find cities."), abs=EXACT)


async def test_a_cut_document_leaves_the_template_whole(qwen3: Reranker) -> None:
    long = "a b c " * 1000
    (cut,) = await qwen3.scores([long], truncate_prompt_tokens=-1)
    assert any(
        cut == pytest.approx(value, abs=EXACT)
        for value in qwen3.wanted([long[:length] for length in range(200, 700)])
    )


@pytest.mark.parametrize(("query", "limit"), [("a b c " * 1000, -1), (QUERY, 50)])
async def test_a_limit_without_room_for_a_document_is_refused(qwen3: Reranker, query: str, limit: int) -> None:
    """Otherwise the score would be that of a template without its end."""
    with pytest.raises(InvalidRequestError) as caught:
        await qwen3.scores(["a b"], query, truncate_prompt_tokens=limit)
    assert caught.value.param == "truncate_prompt_tokens"
    assert "max_tokens_per_query" in caught.value.message


async def test_a_long_query_can_be_cut(qwen3: Reranker) -> None:
    long = "a b c " * 1000
    (cut,) = await qwen3.scores(["a b"], long, truncate_prompt_tokens=-1, max_tokens_per_query=3)
    assert [cut] == pytest.approx(qwen3.wanted(["a b"], "a b"), abs=EXACT)


def test_the_engine_says_how_many_sequences_it_computes(qwen3: Reranker) -> None:
    assert qwen3.card.max_sequences == MAX_NUM_SEQS
