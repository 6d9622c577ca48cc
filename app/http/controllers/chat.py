"""`POST /v1/chat/completions`, complete or streamed."""

import time

from litestar.types import ASGIApp

from app.http.codec import BodyDecoder
from app.http.inference import call_all, streamed
from app.http.requests import AnyRequest, json_response, read_body, service_of
from domain.openai.chat import ChatBody
from domain.openai.chat_presenter import ChatPresenter
from domain.openai.common import new_id
from domain.roles import Role

decoder = BodyDecoder(ChatBody)


async def create_chat_completion(request: AnyRequest) -> ASGIApp:
    """Answer a conversation."""
    body = await read_body(request, decoder)
    model = service_of(request).catalog.resolve(body.model, Role.GENERATE, endpoint="v1/chat/completions")
    conversation = body.to_conversation()
    generation = body.to_request(conversation)
    presenter = ChatPresenter(
        completion_id=new_id("chatcmpl"),
        created=int(time.time()),
        model=model.name or body.model,
        conversation=conversation,
        top_logprobs=body.top_logprobs or 0,
        include_usage=body.include_usage,
        service_tier=body.reported_tier,
    )
    if body.stream:
        return streamed(request, model, [generation], presenter, tier=body.service_tier)
    (result,) = await call_all(request, model, [generation], tier=body.service_tier)
    return json_response(presenter.whole(result))
