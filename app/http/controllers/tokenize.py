"""`POST /tokenize` and `POST /detokenize`."""

from litestar.types import ASGIApp

from app.http.codec import BodyDecoder
from app.http.disconnect import unless_disconnected
from app.http.requests import AnyRequest, context_of, json_response, read_body, service_of
from domain.openai.tokenize import (
    DetokenizeBody,
    DetokenizeResponse,
    TokenizeBody,
    tokenize_response,
)
from domain.requests import DetokenizeRequest

tokenize_decoder = BodyDecoder(TokenizeBody)
detokenize_decoder = BodyDecoder(DetokenizeBody)


async def tokenize(request: AnyRequest) -> ASGIApp:
    """The tokens of a text or a conversation."""
    body = await read_body(request, tokenize_decoder)
    model = service_of(request).catalog.find(body.model)
    work = model.backend.call(body.to_request(), context_of(request))
    found = await unless_disconnected(work, request.receive)
    card = model.backend.card
    return json_response(tokenize_response(found, card.max_model_len if card is not None else None))


async def detokenize(request: AnyRequest) -> ASGIApp:
    """The text of tokens."""
    body = await read_body(request, detokenize_decoder)
    model = service_of(request).catalog.find(body.model)
    work = model.backend.call(DetokenizeRequest(token_ids=body.tokens), context_of(request))
    return json_response(DetokenizeResponse(prompt=await unless_disconnected(work, request.receive)))
