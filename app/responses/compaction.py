"""Replaces a long conversation by a summary of it (`POST /v1/responses/compact`).

The model itself writes the summary. The latest messages of the user are kept as they are, as far as a quarter of
the context length allows, because a summary loses what they asked for.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from app.responses.history import History
from app.responses.preparation import Parts, Prompt, read_prompt
from app.responses.truncation import DEFAULT_ANSWER_TOKENS, fitting, prompt_limit
from domain.catalog import ServedModel
from domain.conversation import Conversation, Message, UserMessage
from domain.openai.field import describe
from domain.openai.responses.body import InputFields
from domain.openai.responses.conversation import seal, to_messages
from domain.openai.responses.items import CompactionItem, MessageItem, ResponseItem, stored_item, text_of
from domain.openai.responses.response import Compaction, response_usage
from domain.port import RequestContext
from domain.random_id import random_hex
from domain.requests import CHARACTERS_PER_TOKEN, GenerationRequest, TokenizeRequest
from domain.results import GenerationResult
from domain.sampling import SamplingParameters

REQUEST = (
    "Summarize the conversation so far for an assistant that will continue it without having seen it. Keep the "
    "goals, decisions, names, numbers, files, results of tools and open steps. Answer with the summary alone."
)
MAX_SUMMARY_TOKENS = 1024


class CompactBody(InputFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a request to compact a conversation (OpenAI's schema `CompactResponseMethodPublicBody`)."""

    image: Annotated[dict[str, Any] | None, describe("Images are not supported.", effect="none")] = None
    prompt_cache_key: Annotated[str | None, describe("Prefixes are always cached.", effect="none")] = None
    prompt_cache_options: Annotated[
        dict[str, Any] | None, describe("Prefixes are always cached.", effect="none")
    ] = None
    prompt_cache_retention: Annotated[str | None, describe("Prefixes are always cached.", effect="none")] = None
    service_tier: Annotated[str | None, describe("There is only one tier.", effect="none")] = None


class CompactionTask(msgspec.Struct, frozen=True, kw_only=True):
    """A summary to generate, and what it replaces."""

    generation: GenerationRequest
    kept: Sequence[ResponseItem]

    def answer(self, result: GenerationResult) -> Compaction:
        """The answer for a generated summary."""
        (choice,) = result.choices
        items = [*self.kept, CompactionItem(encrypted_content=seal(choice.text))]
        return Compaction(
            id=f"resp_{random_hex()}",
            created_at=int(time.time()),
            output=[msgspec.Raw(stored_item(item).data) for item in items],
            usage=response_usage(result.usage),
        )


async def prepare_compaction(
    body: InputFields, model: ServedModel, history: History, parts: Parts, context: RequestContext
) -> CompactionTask:
    """Prepare the summary of a conversation.

    Raises:
        InferenceError: the request is invalid, or what it continues is not stored.
    """
    prompt = await read_prompt(body, model, history, parts, context)
    card = model.backend.card
    max_model_len = card.max_model_len if card is not None else None
    summary_tokens = min(MAX_SUMMARY_TOKENS, (max_model_len or MAX_SUMMARY_TOKENS) // 4)
    return CompactionTask(
        generation=GenerationRequest(
            prompt=await _conversation(prompt, body, model, context, summary_tokens),
            sampling=SamplingParameters(max_tokens=summary_tokens, temperature=body.temperature, top_p=body.top_p),
        ),
        kept=_latest_user_messages(prompt.all_items, (max_model_len or DEFAULT_ANSWER_TOKENS) // 4),
    )


async def _conversation(
    prompt: Prompt, body: InputFields, model: ServedModel, context: RequestContext, summary_tokens: int
) -> Conversation:
    """The conversation, as much of it as fits, and the request for a summary."""

    def build(items: Sequence[ResponseItem]) -> Conversation:
        messages: list[Message] = [*to_messages(items, body.instructions), UserMessage(content=REQUEST)]
        return Conversation(messages=messages)

    async def count(conversation: Conversation) -> int:
        counted = await model.backend.call(TokenizeRequest(prompt=conversation), context)
        return len(counted.token_ids)

    card = model.backend.card
    if card is None or card.max_model_len is None:
        return build(prompt.all_items)
    limit = prompt_limit(card.max_model_len, summary_tokens)
    return await fitting(prompt.all_items, build, count, max_tokens=limit)


def _latest_user_messages(items: Sequence[ResponseItem], max_tokens: int) -> list[ResponseItem]:
    """The latest messages of the user, oldest first, of about so many tokens together."""
    kept: list[ResponseItem] = []
    characters = max_tokens * CHARACTERS_PER_TOKEN
    for item in reversed(items):
        if not isinstance(item, MessageItem) or item.role != "user":
            continue
        characters -= len(text_of(item.content))
        if characters < 0:
            break
        kept.append(item)
    return kept[::-1]
