"""`POST /v1/messages`, complete or streamed, and `POST /v1/messages/count_tokens`."""

import msgspec
from litestar.types import ASGIApp

from app.http.codec import BodyDecoder
from app.http.disconnect import unless_disconnected
from app.http.error_formats import ANTHROPIC
from app.http.inference import call_all, streamed
from app.http.requests import AnyRequest, context_of, json_response, read_body, service_of
from app.http.stream_formats import StreamFormat, encode_named
from domain.anthropic.messages import CountTokensBody, MessagesBody
from domain.anthropic.presenter import MessagesPresenter
from domain.anthropic.response import CountTokensAnswer
from domain.errors import InferenceError
from domain.roles import Role

decoder = BodyDecoder(MessagesBody, is_tolerant=True)
count_decoder = BodyDecoder(CountTokensBody, is_tolerant=True)


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """Keeps a stream open, where OpenAI's format has a comment."""


def _error_event(error: InferenceError, request_id: str) -> bytes:
    return b"event: error\ndata: %b\n\n" % ANTHROPIC.body(error, request_id)


MESSAGES_STREAM = StreamFormat(encode=encode_named, error=_error_event, keep_alive=bytes(encode_named([Ping()])))


async def create_message(request: AnyRequest) -> ASGIApp:
    """Answer a conversation."""
    body = await read_body(request, decoder)
    model = service_of(request).catalog.resolve(body.model, Role.GENERATE, endpoint="v1/messages")
    conversation = body.to_conversation()
    generation = body.to_request(conversation)
    presenter = MessagesPresenter(model=model.name or body.model, conversation=conversation)
    if body.stream:
        return streamed(request, model, [generation], presenter, MESSAGES_STREAM)
    (result,) = await call_all(request, model, [generation])
    return json_response(presenter.whole(result))


async def count_tokens(request: AnyRequest) -> ASGIApp:
    """The number of tokens of a conversation."""
    body = await read_body(request, count_decoder)
    catalog = service_of(request).catalog
    model = catalog.resolve(body.model, Role.GENERATE, endpoint="v1/messages/count_tokens")
    work = model.backend.call(body.to_tokenize_request(), context_of(request, model))
    tokenization = await unless_disconnected(work, request.receive)
    return json_response(CountTokensAnswer(input_tokens=len(tokenization.token_ids)))
