"""`POST /v1/embeddings`."""

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from app.api_options import ApiOptions
from app.codec import BodyDecoder
from app.disconnect import unless_disconnected
from app.requests import AnyRequest, context_of, json_response, read_json
from app.service import Service
from domain.backend import Role
from domain.openai.embeddings import EmbeddingBody, embedding_response

decoder = BodyDecoder(EmbeddingBody)


class EmbeddingsController(Controller):
    """Texts or token ids to vectors."""

    @post("/v1/embeddings", status_code=200)
    async def create(
        self,
        request: AnyRequest,
        service: NamedDependency[Service],
        options: NamedDependency[ApiOptions],
    ) -> ASGIApp:
        """Embed all inputs."""
        body = decoder.decode(await read_json(request), allow_unknown=options.allow_unknown_fields)
        model = service.catalog.resolve(body.model, Role.EMBED, endpoint="v1/embeddings")
        work = model.backend.embed(body.to_request(), context_of(request))
        result = await unless_disconnected(work, request.receive)
        return json_response(embedding_response(result, model.name or body.model, body.encoding_format))
