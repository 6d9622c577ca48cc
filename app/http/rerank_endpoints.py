"""The endpoints that score documents, under the paths that clients of vLLM, Jina and Cohere use."""

from app.http.controllers.rerank import SCORING_ROLES, rerank, rerank_decoder, score
from app.http.endpoint import BatchLines
from app.http.endpoint_kinds import inference
from domain.openai.rerank import RerankBody, RerankResponse
from domain.openai.score import ScoreBody, ScoreResponse

RERANK_ENDPOINTS = (
    inference(
        "/v1/rerank",
        rerank,
        RerankBody,
        RerankResponse,
        summary="Rerank documents",
        about="documents sorted by their relevance to a query, as Jina, Cohere and vLLM answer it; by the "
        "embedding model if there is no reranking model",
        body_origin="vLLM",
        batch_lines=BatchLines(rerank_decoder, SCORING_ROLES),
    ),
    *(
        inference(
            path,
            rerank,
            RerankBody,
            RerankResponse,
            summary=summary,
            about="the same as `/v1/rerank`",
            body_origin="vLLM",
        )
        for path, summary in (
            ("/v2/rerank", "Rerank for clients of Cohere"),
            ("/rerank", "Rerank for clients of vLLM"),
        )
    ),
    inference(
        "/v1/score",
        score,
        ScoreBody,
        ScoreResponse,
        summary="Score pairs of texts",
        about="the relevance of texts to one text, or of each text to its partner, as vLLM answers it",
        body_origin="vLLM",
    ),
    inference(
        "/score",
        score,
        ScoreBody,
        ScoreResponse,
        summary="Score for clients of vLLM",
        about="the same as `/v1/score`",
        body_origin="vLLM",
    ),
)
