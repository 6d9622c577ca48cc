"""Replaces a long conversation by a summary of it (`POST /v1/responses/compact`).

The model itself writes the summary. The latest user messages are kept as they are, as far as a quarter of
the context length allows, because a summary loses what they asked for.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from app.responses.history import History
from app.responses.preparation import Parts, read_prompt
from app.responses.summary import summarizing
from app.responses.truncation import DEFAULT_ANSWER_TOKENS
from domain.catalog import ServedModel
from domain.openai.field import describe
from domain.openai.responses.body import InputFields
from domain.openai.responses.items import CompactionItem, MessageItem, ResponseItem, stored_item, text_of
from domain.openai.responses.response import Compaction, response_usage
from domain.openai.responses.sealing import seal
from domain.port import RequestContext
from domain.random_id import random_hex
from domain.requests import CHARACTERS_PER_TOKEN, GenerationRequest
from domain.results import GenerationResult


class CompactBody(InputFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a request to compact a conversation (OpenAI's schema `CompactResponseMethodPublicBody`)."""

    image: Annotated[dict[str, Any] | None, describe("Images are not supported.", effect="none")] = None
    prompt_cache_key: Annotated[str | None, describe("Prefixes are always cached.", effect="none")] = None
    prompt_cache_options: Annotated[
        dict[str, Any] | None, describe("Prefixes are always cached.", effect="none")
    ] = None
    prompt_cache_retention: Annotated[str | None, describe("Prefixes are always cached.", effect="none")] = None
    service_tier: Annotated[str | None, describe("As in responses.")] = None


class CompactionTask(msgspec.Struct, frozen=True, kw_only=True):
    """A summary to generate, and what it replaces."""

    generation: GenerationRequest
    kept: Sequence[ResponseItem]

    def answer(self, result: GenerationResult) -> Compaction:
        """The answer for a generated summary."""
        (choice,) = result.choices
        summary = choice.text if choice.text.strip() else choice.reasoning
        items = [*self.kept, CompactionItem(encrypted_content=seal(summary))]
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
    return CompactionTask(
        generation=await summarizing(body, prompt.all_items, model, context),
        kept=_latest_user_messages(prompt.all_items, (max_model_len or DEFAULT_ANSWER_TOKENS) // 4),
    )


def _latest_user_messages(items: Sequence[ResponseItem], max_tokens: int) -> list[ResponseItem]:
    """The latest user messages, oldest first, of about so many tokens together."""
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
