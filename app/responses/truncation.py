"""Drops the oldest items of a conversation that exceeds the context length (`truncation: "auto"`)."""

from collections.abc import Awaitable, Callable, Sequence

from app.responses.field_names import response_field_names
from domain.catalog import ServedModel
from domain.conversation import Conversation
from domain.openai.responses.items import (
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    MessageItem,
    ResponseItem,
)
from domain.port import RequestContext
from domain.requests import TokenizeRequest

DEFAULT_ANSWER_TOKENS = 256
"""Tokens that are left for an answer without a limit, if the context is at least four times as long."""


def token_counter(model: ServedModel, context: RequestContext) -> Callable[[Conversation], Awaitable[int]]:
    """A function that counts the tokens of a conversation, as the model's chat template renders it."""

    async def count(conversation: Conversation) -> int:
        with response_field_names():
            counted = await model.backend.call(TokenizeRequest(prompt=conversation), context)
        return len(counted.token_ids)

    return count


async def fitting(
    items: Sequence[ResponseItem],
    build: Callable[[Sequence[ResponseItem]], Conversation],
    count: Callable[[Conversation], Awaitable[int]],
    *,
    max_tokens: int,
) -> Conversation:
    """The conversation with as many of the latest items as fit.

    Args:
        items: all items, oldest first.
        build: makes the conversation of items.
        count: counts the tokens of a conversation.
        max_tokens: tokens that the prompt may have.

    Returns:
        The conversation; it may still be too long if its last item alone is.
    """
    conversation = build(items)
    if conversation.characters <= max_tokens // 2 or await count(conversation) <= max_tokens:
        return conversation
    # The first of the positions to cut at that fits, by bisection: fewer items have fewer tokens.
    cuts = _cuts(items)
    low, high = 0, len(cuts) - 1
    while low < high:
        middle = (low + high) // 2
        if await count(build(_from(items, cuts[middle]))) <= max_tokens:
            high = middle
        else:
            low = middle + 1
    return build(_from(items, cuts[low])) if cuts else conversation


def _cuts(items: Sequence[ResponseItem]) -> list[int]:
    """Positions before which everything can be dropped: each call stays with its output."""
    outputs = {
        item.call_id: position
        for position, item in enumerate(items)
        if isinstance(item, FunctionCallOutputItem | CustomToolCallOutputItem)
    }
    cuts, needed_until = [], 0
    for position, item in enumerate(items):
        if position > needed_until and position > 0:
            cuts.append(position)
        if isinstance(item, FunctionCallItem | CustomToolCallItem):
            needed_until = max(needed_until, outputs.get(item.call_id, position))
    return cuts


def _from(items: Sequence[ResponseItem], cut: int) -> list[ResponseItem]:
    """The items from a position on, after the system and developer messages before it."""
    kept = [item for item in items[:cut] if isinstance(item, MessageItem) and item.role in ("system", "developer")]
    return [*kept, *items[cut:]]


def prompt_limit(max_model_len: int, max_output_tokens: int | None) -> int:
    """Tokens that a prompt may have, so that the answer has room.

    Args:
        max_model_len: the context length in tokens.
        max_output_tokens: the request's limit on the answer, if it has one.
    """
    reserve = min(DEFAULT_ANSWER_TOKENS, max_model_len // 4) if max_output_tokens is None else max_output_tokens
    return max(1, max_model_len - reserve)
