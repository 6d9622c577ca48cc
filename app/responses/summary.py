"""Lets the model summarize a conversation."""

from collections.abc import Sequence

from app.responses.truncation import fitting, prompt_limit, token_counter
from domain.catalog import ServedModel
from domain.conversation import Conversation, Message, UserMessage
from domain.openai.responses.body import InputFields
from domain.openai.responses.conversation import to_messages
from domain.openai.responses.items import ResponseItem
from domain.port import RequestContext
from domain.requests import GenerationRequest

REQUEST = (
    "Summarize the conversation so far for an assistant that will continue it without having seen it. Keep the "
    "goals, decisions, names, numbers, files, results of tools and open steps. Answer with the summary alone."
)
MAX_SUMMARY_TOKENS = 1024


async def summarizing(
    body: InputFields, items: Sequence[ResponseItem], model: ServedModel, context: RequestContext
) -> GenerationRequest:
    """The generation of a summary.

    Args:
        body: the request, with its instructions and sampling parameters.
        items: the conversation, oldest first; if it exceeds the context length, without its oldest items.
        model: the model that summarizes.
        context: of the calls that count tokens.
    """

    def build(kept: Sequence[ResponseItem]) -> Conversation:
        messages: list[Message] = [*to_messages(kept, body.instructions), UserMessage(content=REQUEST)]
        # Reasoning would use up the summary's tokens.
        return Conversation(messages=messages, reasoning_effort="none")

    card = model.backend.card
    max_model_len = card.max_model_len if card is not None else None
    if max_model_len is None:
        summary_tokens, conversation = MAX_SUMMARY_TOKENS, build(items)
    else:
        summary_tokens = min(MAX_SUMMARY_TOKENS, max_model_len // 4)
        limit = prompt_limit(max_model_len, summary_tokens)
        conversation = await fitting(items, build, token_counter(model, context), max_tokens=limit)
    return GenerationRequest(
        prompt=conversation, sampling=body.to_sampling(max_tokens=summary_tokens, logprobs=None)
    )
