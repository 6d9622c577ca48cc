"""`POST /v1/embeddings`."""

from litestar.types import ASGIApp

from app.http.codec import BodyDecoder
from app.http.inference import call_all
from app.http.requests import AnyRequest, json_response, read_body, service_of
from domain.openai.embeddings import EmbeddingBody, embedding_response
from domain.roles import Role

decoder = BodyDecoder(EmbeddingBody)


async def create_embedding(request: AnyRequest) -> ASGIApp:
    """Embed all inputs."""
    body = await read_body(request, decoder)
    model = service_of(request).catalog.resolve(body.model, Role.EMBED, endpoint="v1/embeddings")
    (result,) = await call_all(request, model, [body.to_request()])
    return json_response(embedding_response(result, model.name or body.model, body.encoding_format))
