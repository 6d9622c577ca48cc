"""`POST /v1/embeddings`."""

from litestar.types import ASGIApp

from app.http.codec import BodyDecoder
from app.http.disconnect import unless_disconnected
from app.http.rate_limits import counted_embedding, reserve
from app.http.requests import AnyRequest, context_of, json_response, read_body, service_of
from domain.openai.embeddings import EmbeddingBody, embedding_response
from domain.roles import Role

decoder = BodyDecoder(EmbeddingBody)


async def create_embedding(request: AnyRequest) -> ASGIApp:
    """Embed all inputs."""
    body = await read_body(request, decoder)
    model = service_of(request).catalog.resolve(body.model, Role.EMBED, endpoint="v1/embeddings")
    inputs = body.to_request()
    context = context_of(request, model)
    # Whatever can be refused has been by now: what is reserved is given back by the work alone.
    reservation = await reserve(request)
    work = counted_embedding(model.backend.embed(inputs, context), reservation)
    result = await unless_disconnected(work, request.receive)
    return json_response(embedding_response(result, model.name or body.model, body.encoding_format))
