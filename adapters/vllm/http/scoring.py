"""Scores pairs of texts on a vLLM server."""

from typing import Any

from adapters.vllm.http.errors import translate_errors
from adapters.vllm.http.server import RequestInfo, VLLMServer
from adapters.vllm.http.wire import ServerModel, scores_decoder
from domain.errors import BackendFailedError
from domain.port import RequestContext
from domain.requests import ScoreRequest
from domain.results import ScoreResult


async def score(
    server: VLLMServer, model: ServerModel, request: ScoreRequest, context: RequestContext
) -> ScoreResult:
    """Score all pairs.

    Raises:
        InferenceError: the server returned an error or can't be reached.
    """
    request = request.within(model.max_model_len)
    # The only names of the lists that servers of all versions know.
    body: dict[str, Any] = {"model": model.id, "text_1": request.queries, "text_2": request.documents}
    for name in (
        "truncate_prompt_tokens",
        "max_tokens_per_query",
        "max_tokens_per_doc",
        "instruction",
        "use_activation",
    ):
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    content = await server.post("/score", body, context, RequestInfo("documents"))
    with translate_errors(server.name):
        answer = scores_decoder.decode(content)
    found = {item.index: item.score for item in answer.data}
    if sorted(found) != list(range(len(request.documents))):
        raise BackendFailedError(f"The {server.name} server sent an incomplete response.")
    return ScoreResult(
        scores=[found[index] for index in range(len(found))], prompt_tokens=answer.usage.prompt_tokens
    )
