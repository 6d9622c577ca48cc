"""All endpoints of the API."""

from app.http.controllers.admin import restart_engine
from app.http.controllers.chat import create_chat_completion
from app.http.controllers.completions import create_completion
from app.http.controllers.embeddings import create_embedding
from app.http.controllers.health import health, live, ready
from app.http.controllers.metrics import metrics
from app.http.controllers.models import list_models, retrieve_model
from app.http.controllers.openapi import openapi
from app.http.controllers.page import index, page_file
from app.http.controllers.status import status
from app.http.controllers.tokenize import detokenize, tokenize
from app.http.endpoint import Endpoint

ENDPOINTS = (
    Endpoint(method="POST", path="/v1/chat/completions", handler=create_chat_completion),
    Endpoint(method="POST", path="/v1/completions", handler=create_completion),
    Endpoint(method="POST", path="/v1/embeddings", handler=create_embedding),
    Endpoint(method="GET", path="/v1/models", handler=list_models),
    Endpoint(method="GET", path="/v1/models/{model_id:path}", handler=retrieve_model),
    Endpoint(method="POST", path="/tokenize", handler=tokenize),
    Endpoint(method="POST", path="/detokenize", handler=detokenize),
    Endpoint(method="GET", path="/health", handler=health),
    Endpoint(method="GET", path="/health/live", handler=live),
    Endpoint(method="GET", path="/health/ready", handler=ready),
    Endpoint(method="GET", path="/", handler=index),
    Endpoint(method="GET", path="/page/{name:str}", handler=page_file),
    Endpoint(method="GET", path="/status", handler=status),
    Endpoint(method="GET", path="/metrics", handler=metrics, needs_metrics=True),
    Endpoint(method="POST", path="/admin/engines/{role:str}/restart", handler=restart_engine, status=202),
    Endpoint(method="GET", path="/openapi.json", handler=openapi),
)
