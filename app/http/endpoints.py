"""All endpoints of the API. A new one is one entry here and one handler."""

from app.http.batches_endpoints import BATCHES_ENDPOINTS
from app.http.controllers.admin import restart_engine
from app.http.controllers.chat import create_chat_completion
from app.http.controllers.chat import decoder as chat_decoder
from app.http.controllers.completions import create_completion
from app.http.controllers.completions import decoder as completions_decoder
from app.http.controllers.embeddings import create_embedding
from app.http.controllers.embeddings import decoder as embeddings_decoder
from app.http.controllers.health import health, live, ready
from app.http.controllers.messages import count_tokens, create_message
from app.http.controllers.metrics import metrics
from app.http.controllers.models import list_models, retrieve_model
from app.http.controllers.openapi import openapi
from app.http.controllers.page import index, page_file
from app.http.controllers.status import Status, status
from app.http.controllers.tokenize import detokenize, tokenize
from app.http.controllers.version import Version, version
from app.http.endpoint import Access, BatchLines, Endpoint
from app.http.endpoint_kinds import inference
from app.http.error_formats import ANTHROPIC
from app.http.files_endpoints import FILES_ENDPOINTS
from app.http.rerank_endpoints import RERANK_ENDPOINTS
from app.http.responses_endpoints import RESPONSES_ENDPOINTS
from domain.anthropic.messages import CountTokensBody, MessagesBody
from domain.anthropic.response import CountTokensAnswer, MessagesAnswer
from domain.health import ServiceHealth
from domain.openai.agent_models import AgentModel, AgentModelList
from domain.openai.chat import ChatBody
from domain.openai.chat_response import ChatCompletion
from domain.openai.completions import Completion, CompletionBody
from domain.openai.embeddings import EmbeddingBody, EmbeddingResponse
from domain.openai.tokenize import DetokenizeBody, DetokenizeResponse, TokenizeBody, TokenizeResponse
from domain.roles import Role

ENDPOINTS = (
    inference(
        "/v1/chat/completions",
        create_chat_completion,
        ChatBody,
        ChatCompletion,
        summary="Answer a conversation",
        about="answers to conversations: tools, structured outputs, reasoning, streams",
        batch_lines=BatchLines(chat_decoder, (Role.GENERATE,)),
        is_streamed=True,
    ),
    inference(
        "/v1/completions",
        create_completion,
        CompletionBody,
        Completion,
        summary="Continue prompts",
        about="continuations of prompts: `echo`, `best_of`, `suffix`, streams",
        batch_lines=BatchLines(completions_decoder, (Role.GENERATE,)),
        is_streamed=True,
    ),
    inference(
        "/v1/embeddings",
        create_embedding,
        EmbeddingBody,
        EmbeddingResponse,
        summary="Embed texts",
        about="vectors, as numbers or base64",
        batch_lines=BatchLines(embeddings_decoder, (Role.EMBED,)),
    ),
    *RERANK_ENDPOINTS,
    *RESPONSES_ENDPOINTS,
    *FILES_ENDPOINTS,
    *BATCHES_ENDPOINTS,
    inference(
        "/v1/messages",
        create_message,
        MessagesBody,
        MessagesAnswer,
        summary="Create a message",
        about="answers to conversations in Anthropic's API: tools, structured outputs, thinking, streams",
        body_origin="Anthropic",
        error_format=ANTHROPIC,
        is_streamed=True,
    ),
    inference(
        "/v1/messages/count_tokens",
        count_tokens,
        CountTokensBody,
        CountTokensAnswer,
        summary="Count the tokens of a message",
        about="the number of tokens of such a conversation",
        body_origin="Anthropic",
        error_format=ANTHROPIC,
    ),
    Endpoint(
        method="GET",
        path="/v1/models",
        handler=list_models,
        answer=AgentModelList,
        errors=(401,),
        summary="List the models",
        about="all models, under each of their names, in the forms of OpenAI, Anthropic and Codex",
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{model_id:path}",
        documented_path="/v1/models/{model}",
        handler=retrieve_model,
        answer=AgentModel,
        errors=(401, 404, 503),
        summary="Retrieve a model",
        about="one model",
    ),
    inference(
        "/tokenize",
        tokenize,
        TokenizeBody,
        TokenizeResponse,
        summary="Texts to tokens",
        about="the tokens of a text or a conversation, in either model's vocabulary, as vLLM answers it",
        body_origin="vLLM",
    ),
    inference(
        "/detokenize",
        detokenize,
        DetokenizeBody,
        DetokenizeResponse,
        summary="Tokens to text",
        about="the text of tokens, as vLLM answers it",
        body_origin="vLLM",
    ),
    Endpoint(
        method="GET",
        path="/health",
        handler=health,
        answer=ServiceHealth,
        other_statuses=((503, "Not all models serve."),),
        summary="State and reason of each model",
        about="state, reason and memory of each model, tasks, statistics of the embedding cache; 503 unless all "
        "models serve",
        access=Access.STATUS_WITHOUT_KEY,
        is_probe=True,
    ),
    Endpoint(
        method="GET",
        path="/health/live",
        handler=live,
        about="200 while the process answers",
        access=Access.OPEN,
        is_probe=True,
    ),
    Endpoint(
        method="GET",
        path="/health/ready",
        handler=ready,
        about="200 if all models take requests, else 503",
        access=Access.OPEN,
        is_probe=True,
    ),
    Endpoint(
        method="GET",
        path="/",
        handler=index,
        about="the [status page](README.md#the-status-page) and playground, for browsers; the page sends a key "
        "with its own requests",
        access=Access.OPEN,
    ),
    Endpoint(
        method="GET",
        path="/page/{name:str}",
        handler=page_file,
        about="the files of that page, which hold no data of the service",
        access=Access.OPEN,
    ),
    Endpoint(
        method="GET",
        path="/status",
        handler=status,
        answer=Status,
        errors=(401,),
        summary="State of each model and the last minutes",
        about="the data of the page as JSON: version, roles, `/health`, models, the last minutes as series, the "
        "last requests, the batches of the key; always 200",
    ),
    Endpoint(
        method="GET",
        path="/version",
        handler=version,
        answer=Version,
        errors=(401,),
        summary="Version of the service",
        about="the version of the service, in the form of vLLM's server",
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        handler=metrics,
        about="[metrics](docs/observability.md#metrics) as text, in the format of Prometheus or OpenMetrics; 404 "
        "with `METRICS=false`",
        needs_metrics=True,
    ),
    Endpoint(
        method="POST",
        path="/admin/engines/{role:str}/restart",
        handler=restart_engine,
        status=202,
        about="restarts an engine (`embed`, `generate`, `rerank`) that is `failed`: 202 with the body of "
        "`/health`, 409 with the same if it is not `failed`",
        is_counted=True,
    ),
    Endpoint(
        method="GET",
        path="/openapi.json",
        handler=openapi,
        about="this API as an OpenAPI 3.1 document",
    ),
)
PROBES = frozenset(endpoint.path for endpoint in ENDPOINTS if endpoint.is_probe)
"""The paths that load balancers ask."""
