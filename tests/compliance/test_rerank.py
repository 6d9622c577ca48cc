"""Reranking and scores, with a reranking model and without one, compared with vLLM's own server."""

import math

import httpx
import pytest

from domain.roles import Role
from tests.processes import ServiceProcess
from tests.tiny_rerankers import DOCUMENTS, QUERY

pytestmark = pytest.mark.integration

EXACT = 1e-4


async def post(url: str, path: str, **body) -> dict:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        response = await client.post(f"{url}{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_answer_is_that_of_vllms_own_server(
    gateway_service: ServiceProcess, vllm_servers: dict[Role, str]
) -> None:
    body = {"model": "tiny-rerank", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        own, theirs = (
            await post(gateway_service.url, path, **body),
            await post(vllm_servers[Role.RERANK], path, **body),
        )
        assert [result["index"] for result in own["results"]] == [result["index"] for result in theirs["results"]]
        for mine, other in zip(own["results"], theirs["results"], strict=True):
            assert mine["relevance_score"] == pytest.approx(other["relevance_score"], abs=EXACT)
            assert mine["document"]["text"] == other["document"]["text"]
        assert (own["model"], own["usage"]) == (theirs["model"], theirs["usage"])


async def test_scores_are_those_of_vllms_own_server(
    gateway_service: ServiceProcess, vllm_servers: dict[Role, str]
) -> None:
    pairs = {"text_1": DOCUMENTS, "text_2": DOCUMENTS[::-1]}
    for body in (pairs, {"queries": QUERY, "documents": DOCUMENTS}, {"text_1": QUERY, "text_2": "x"}):
        own = await post(gateway_service.url, "/v1/score", **body)
        theirs = await post(vllm_servers[Role.RERANK], "/v1/score", **body)
        assert [item["score"] for item in own["data"]] == pytest.approx(
            [item["score"] for item in theirs["data"]], abs=EXACT
        )
        assert own["usage"]["total_tokens"] == theirs["usage"]["total_tokens"]


async def test_an_embedding_model_scores_as_on_vllms_own_server(
    gateway_service: ServiceProcess, vllm_servers: dict[Role, str]
) -> None:
    body = {"model": "tiny-embed", "query": QUERY, "documents": DOCUMENTS}
    own, theirs = (
        await post(gateway_service.url, "/v1/rerank", **body),
        await post(vllm_servers[Role.EMBED], "/rerank", **body),
    )
    assert [result["index"] for result in own["results"]] == [result["index"] for result in theirs["results"]]
    assert [result["relevance_score"] for result in own["results"]] == pytest.approx(
        [result["relevance_score"] for result in theirs["results"]], abs=EXACT
    )


async def test_the_default_models_rerank(real_service: ServiceProcess) -> None:
    answer = await post(real_service.url, "/v1/rerank", query=QUERY, documents=DOCUMENTS)
    assert answer["model"] == "all-MiniLM-L6-v2"
    assert {result["index"] for result in answer["results"][:2]} == {0, 2}
    embedded = await post(real_service.url, "/v1/embeddings", model="all-MiniLM-L6-v2", input=[QUERY, *DOCUMENTS])
    query, *documents = [item["embedding"] for item in embedded["data"]]
    for result in answer["results"]:
        cosine = math.fsum(a * b for a, b in zip(query, documents[result["index"]], strict=True))
        assert result["relevance_score"] == pytest.approx(cosine, abs=EXACT)


async def test_thousands_of_documents_are_answered_whole(gateway_service: ServiceProcess) -> None:
    count = 3000
    documents = [f"{DOCUMENTS[number % 4]} {number}" for number in range(count)]
    answer = await post(
        gateway_service.url, "/v1/rerank", query=QUERY, documents=documents, return_documents=False
    )
    assert sorted(result["index"] for result in answer["results"]) == list(range(count))
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
