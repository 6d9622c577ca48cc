"""`/v1/rerank` and `/v1/score`, with a reranking model and without one."""

import math
from collections.abc import AsyncGenerator

import pytest

from domain.errors import BackendFailedError
from domain.policies.splitting import PARALLEL_PARTS, PART_PAIRS
from domain.results import ScoreResult
from domain.roles import Role
from tests.unit.serving import RERANK, SCORE, Api, error_of, serving
from tests.unit.waiting import until

QUERY, DOCUMENTS = "cat", ["dog", "cat", "cats and dogs"]
WITH_RERANKER = {
    "MODEL_RERANK_NAME": "fake-rerank",
    "MODEL_RERANK_ALIASES": "rerank-v3.5",
    "MAX_BODY_BYTES": "1000000",
}


@pytest.fixture(scope="module")
async def api() -> AsyncGenerator[Api, None]:
    """Without a reranking model, as by default."""
    async with serving(Api()) as running:
        await until(lambda: running.is_ready)
        yield running


@pytest.fixture(scope="module")
async def reranking() -> AsyncGenerator[Api, None]:
    async with serving(Api(settings=WITH_RERANKER)) as running:
        await until(lambda: running.is_ready)
        yield running


async def rerank(api: Api, documents: list = DOCUMENTS, **more) -> dict:
    response = await api.http.post(RERANK, json={"query": QUERY, "documents": documents, **more})
    assert response.status_code == 200, response.text
    return response.json()


async def refusal(api: Api, path: str, **body) -> tuple[int, str | None, str | None, str]:
    response = await api.http.post(path, json=body)
    error = error_of(response)
    return response.status_code, error["param"], error["code"], error["message"]


def common(query: str, document: str) -> float:
    """The fake's score."""
    return len({*query} & {*document}) / len({*query} | {*document})


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


async def test_documents_are_sorted_by_their_scores(reranking):
    answer = await rerank(reranking)
    assert answer["id"].startswith("rerank-")
    assert answer["model"] == "fake-rerank"
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    for result in answer["results"]:
        text = DOCUMENTS[result["index"]]
        assert result["document"] == {"text": text}
        assert result["relevance_score"] == pytest.approx(common(QUERY, text))
    tokens = sum(len(QUERY) + len(text) for text in DOCUMENTS)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


async def test_equal_documents_keep_their_order(reranking):
    answer = await rerank(reranking, ["dog", "cat", "act", "cat"])
    assert [result["index"] for result in answer["results"]] == [1, 2, 3, 0]


@pytest.mark.parametrize(("top_n", "count"), [(0, 3), (1, 1), (2, 2), (3, 3), (9, 3), (None, 3)])
async def test_only_the_best_are_returned_if_asked(reranking, top_n, count):
    answer = await rerank(reranking, top_n=top_n)
    assert [result["index"] for result in answer["results"]] == [1, 2, 0][:count]


async def test_documents_are_left_out_if_asked(reranking):
    answer = await rerank(reranking, return_documents=False)
    assert [set(result) for result in answer["results"]] == [{"index", "relevance_score"}] * 3


async def test_queries_and_documents_may_be_objects(reranking):
    plain = await rerank(reranking)
    parts = [{"type": "text", "text": "cats and"}, {"type": "text", "text": "dogs"}]
    objects = [{"text": "dog", "id": 7}, {"text": "cat"}, {"content": parts}]
    body = {"query": {"text": QUERY}, "documents": objects}
    answer = (await reranking.http.post(RERANK, json=body)).json()
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert answer["results"][0] == plain["results"][0]
    assert answer["results"][1]["document"] == {"text": "cats and\ndogs"}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_all_paths_answer_the_same(reranking, path):
    answer = (await reranking.http.post(path, json={"query": QUERY, "documents": DOCUMENTS})).json()
    assert answer["results"] == (await rerank(reranking))["results"]


async def test_fields_reach_the_engine(reranking):
    await rerank(
        reranking,
        max_tokens_per_doc=2,
        max_tokens_per_query=1,
        truncate_prompt_tokens=9,
        instruction="Find animals.",
        use_activation=False,
    )
    asked = reranking.reranker.seen[-1]
    assert (asked.max_tokens_per_doc, asked.max_tokens_per_query, asked.truncate_prompt_tokens) == (2, 1, 9)
    assert (asked.instruction, asked.use_activation) == ("Find animals.", False)
    await rerank(reranking, max_tokens_per_doc=0, max_tokens_per_query=0)
    asked = reranking.reranker.seen[-1]
    assert (asked.max_tokens_per_doc, asked.max_tokens_per_query) == (None, None)


@pytest.mark.parametrize("name", ["fake-rerank", "rerank-v3.5", None])
async def test_the_reranking_model_is_the_default(reranking, name):
    assert (await rerank(reranking, model=name))["model"] == "fake-rerank"


async def test_the_embedding_model_can_be_named_too(reranking):
    answer = await rerank(reranking, model="fake-embed")
    assert answer["model"] == "fake-embed"
    assert len(answer["results"]) == 3


async def test_a_generation_model_cant_rerank(reranking):
    status, param, _, message = await refusal(
        reranking, RERANK, model="fake-write", query=QUERY, documents=DOCUMENTS
    )
    assert (status, param) == (404, "model")
    assert "is a generation model and not supported in the v1/rerank endpoint" in message


async def test_a_reranking_model_cant_embed(reranking):
    status, _, _, message = await refusal(reranking, "/v1/embeddings", model="fake-rerank", input="x")
    assert status == 404
    assert message.endswith("Use it with v1/rerank or v1/score.")


async def test_health_and_models_list_the_reranking_model(reranking, api):
    health = (await reranking.http.get("/health")).json()
    assert list(health["backends"]) == [*Role]
    models = (await reranking.http.get("/v1/models")).json()["data"]
    assert {"fake-rerank", "rerank-v3.5"} <= {model["id"] for model in models}
    assert list((await api.http.get("/health")).json()["backends"]) == [Role.EMBED, Role.GENERATE]


# Without a reranking model.


async def test_without_a_reranking_model_the_embedding_model_answers(api):
    answer = await rerank(api)
    assert answer["model"] == "fake-embed"
    vectors = (await api.embed([QUERY, *DOCUMENTS])).json()["data"]
    query, *documents = [item["embedding"] for item in vectors]
    scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
    for index, vector in enumerate(documents):
        assert scores[index] == pytest.approx(cosine(query, vector), abs=1e-6)
    assert answer["usage"]["total_tokens"] == sum(map(len, [QUERY, *DOCUMENTS]))


async def test_an_embedding_model_reads_limited_texts(api):
    cut = await rerank(api, ["catdog"], max_tokens_per_doc=3)
    assert cut["results"][0]["relevance_score"] == pytest.approx(1.0, abs=1e-6)
    asked = api.embedder.seen[-1]
    assert (asked.inputs, asked.truncate_prompt_tokens) == (["catdog"], 3)
    await rerank(api, ["catdog"], max_tokens_per_doc=3, truncate_prompt_tokens=2)
    assert api.embedder.seen[-1].truncate_prompt_tokens == 2
    await rerank(api, ["catdog"], max_tokens_per_query=2, truncate_prompt_tokens=-1)
    assert [asked.truncate_prompt_tokens for asked in api.embedder.seen[-2:]] == [2, -1]
    # A limit beyond the context limits nothing.
    await rerank(api, ["catdog"], max_tokens_per_doc=10**6)
    assert api.embedder.seen[-1].truncate_prompt_tokens is None


async def test_errors_of_the_embedding_model_name_the_documents(api):
    status, param, code, message = await refusal(api, RERANK, query=QUERY, documents=["x" * 500])
    assert (status, param, code) == (400, "documents", "context_length_exceeded")
    assert "256 tokens" in message


async def test_without_any_model_the_error_says_what_to_set():
    off = {"EMBED_BACKEND": "off"}
    async with serving(Api(settings=off)) as running:
        await until(lambda: running.is_ready)
        status, param, _, message = await refusal(running, RERANK, query=QUERY, documents=DOCUMENTS)
    assert (status, param) == (404, "model")
    assert "EMBED_BACKEND" in message


# Scores.


@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
async def test_pairs_are_scored_in_their_order(reranking, names):
    first, second = names
    one = (await reranking.http.post(SCORE, json={first: "cat", second: DOCUMENTS})).json()
    assert one["id"].startswith("score-")
    assert (one["object"], one["model"]) == ("list", "fake-rerank")
    assert [(item["index"], item["object"]) for item in one["data"]] == [(n, "score") for n in range(3)]
    assert [item["score"] for item in one["data"]] == pytest.approx([common("cat", text) for text in DOCUMENTS])
    many = (await reranking.http.post(SCORE, json={first: ["cat", "dog", "cat"], second: DOCUMENTS})).json()
    assert [item["score"] for item in many["data"]] == pytest.approx(
        [common(query, text) for query, text in zip(["cat", "dog", "cat"], DOCUMENTS, strict=True)]
    )
    single = (await reranking.http.post("/score", json={first: "cat", second: "cat"})).json()
    assert [item["score"] for item in single["data"]] == [1.0]
    assert single["usage"] == {"prompt_tokens": 6, "total_tokens": 6, "completion_tokens": 0}


async def test_errors_about_scores_use_the_names_of_the_request(reranking, api):
    for running in (reranking, api):
        _, param, _, _ = await refusal(running, SCORE, text_1="x", text_2=["y" * 500])
        assert param == "text_2"


# Bad input.


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"documents": ["x"]}, "query", "missing_required_parameter"),
        ({"query": "x"}, "documents", "missing_required_parameter"),
        ({"query": "", "documents": ["x"]}, "query", "empty_input"),
        ({"query": "x", "documents": []}, "documents", "empty_array"),
        ({"query": "x", "documents": ["x"] * 10_001}, "documents", "array_above_max_length"),
        ({"query": "x", "documents": ["x", {"title": "t"}]}, "documents[1]", "missing_required_parameter"),
        ({"query": {"content": []}, "documents": ["x"]}, "query", "missing_required_parameter"),
        ({"query": "x", "documents": ["x", 5]}, "documents[1]", "invalid_type"),
        ({"query": "x", "documents": "x"}, "documents", "invalid_type"),
        ({"query": "x", "documents": ["x"], "top_n": -1}, "top_n", "invalid_value"),
        ({"query": "x", "documents": ["x"], "top_k": 1}, "top_k", "unknown_parameter"),
        ({"query": "x", "documents": ["x"], "max_tokens_per_doc": -1}, "max_tokens_per_doc", "invalid_value"),
        (
            {"query": "x", "documents": ["x"], "truncate_prompt_tokens": 0},
            "truncate_prompt_tokens",
            "integer_below_min_value",
        ),
        (
            {"query": "x", "documents": [{"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "documents[0].content[0].type",
            "invalid_value",
        ),
    ],
)
async def test_bad_rerank_requests_are_refused(reranking, body, param, code):
    assert (await refusal(reranking, RERANK, **body))[:3] == (400, param, code)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text_1"),
        ({"text_1": "x"}, "text_2"),
        ({"items": ["x"]}, "queries"),
        ({"text_1": "x", "data_2": "y"}, "data_2"),
        ({"text_1": "x", "text_2": "y", "items": "z"}, "items"),
        ({"text_1": ["x", "y"], "text_2": ["x", "y", "z"]}, "text_1"),
        ({"text_1": [], "text_2": ["x"]}, "text_1"),
    ],
)
async def test_bad_score_requests_are_refused(reranking, body, param):
    assert (await refusal(reranking, SCORE, **body))[:2] == (400, param)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
async def test_a_score_that_is_no_number_is_an_error(reranking, monkeypatch, number):
    """JSON has no such numbers: they would be answered as null, and sorted anywhere."""

    async def call(_request, _context):
        return ScoreResult(scores=[0.5, number, 0.1], prompt_tokens=3)

    monkeypatch.setattr(reranking.reranker, "call", call)
    bodies = {RERANK: {"query": QUERY, "documents": DOCUMENTS}, SCORE: {"text_1": QUERY, "text_2": DOCUMENTS}}
    for path, body in bodies.items():
        response = await reranking.http.post(path, json=body)
        assert response.status_code == 500
        assert "not a finite number" in error_of(response)["message"]


# Many documents.


async def test_many_documents_are_scored_in_parts():
    count = 5 * PART_PAIRS + 1
    async with serving(Api(settings=WITH_RERANKER)) as running:
        await until(lambda: running.is_ready)
        documents = [f"document {number}" for number in range(count)]
        before = len(running.reranker.seen)
        answer = await rerank(running, documents)
        parts = running.reranker.seen[before:]
        assert [len(part.documents) for part in parts] == [PART_PAIRS] * 5 + [1]
        assert [text for part in parts for text in part.documents] == documents
        assert sorted(result["index"] for result in answer["results"]) == list(range(count))
        tokens = sum(len(QUERY) + len(text) for text in documents)
        assert answer["usage"]["total_tokens"] == tokens


async def test_a_part_that_fails_fails_the_request():
    async with serving(Api(settings=WITH_RERANKER)) as running:
        await until(lambda: running.is_ready)
        running.reranker.fail_next = BackendFailedError("Trouble.")
        body = {"query": QUERY, "documents": ["x"] * 10 * PART_PAIRS}
        response = await running.http.post(RERANK, json=body)
        assert response.status_code == 500
        assert running.reranker.running == 0
        assert len(running.reranker.seen) <= PARALLEL_PARTS + 2, "the rest is not computed"
