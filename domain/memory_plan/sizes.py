"""The sizes that are tried for an engine when nobody has chosen them: the most generous first."""

from collections.abc import Iterator
from itertools import product

import msgspec

from domain.memory_plan.parts import GIB
from domain.memory_plan.types import Card, EngineWish
from domain.roles import Role

CONTEXTS = {
    Role.GENERATE: (32768, 16384, 8192, 4096, 2048),
    # Passages to embed are short, and a batch of the longest has to fit at once.
    Role.EMBED: (8192, 4096, 2048, 1024, 512),
}
LARGE_CARD = 70 * GIB
"""From here on vLLM takes larger batches by default (`vllm.engine.arg_utils.EngineArgs.get_batch_defaults`)."""
BATCHES = ((2048, 256), (2048, 128), (2048, 64), (1024, 32), (512, 16))
"""Tokens and sequences of a batch. The first is vLLM's default on cards below LARGE_CARD."""
LARGE_BATCHES = ((8192, 256), *BATCHES)
USEFUL_CONTEXT = 8192
USEFUL_SEQUENCES = 64
CPU_BATCH = (2048, 128)
"""vLLM's default on the CPU."""
EMBED_BATCH = 2048
"""Tokens of a batch of an embedder at the least; short texts are computed many at a time."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of one engine."""

    context: int
    batched_tokens: int
    sequences: int


def gpu_sizes(card: Card, wishes: list[EngineWish]) -> Iterator[dict[Role, Sizes]]:
    """Sizes of all engines together, in order of least loss.

    First only as far as nobody notices much: the generator's context down to USEFUL_CONTEXT, batches down to
    USEFUL_SEQUENCES. Then all that is small, the batches first, which cost nothing but speed under load, then the
    embedder's context, and last the generator's.
    """
    by_role = {wish.role: wish for wish in wishes}
    order = [role for role in (Role.GENERATE, Role.EMBED) if role in by_role]
    contexts = {role: _contexts(by_role[role]) for role in order}
    batches = LARGE_BATCHES if card.total_bytes >= LARGE_CARD else BATCHES
    useful = [_useful(by_role[role], contexts[role]) for role in order]
    small = [
        [length for length in contexts[role] if length <= USEFUL_CONTEXT] or contexts[role][-1:] for role in order
    ]
    roomy = [batch for batch in batches if batch[1] >= USEFUL_SEQUENCES]
    for lengths_of, batches_of in ((useful, roomy), (small, batches)):
        for lengths, batch in product(product(*lengths_of), batches_of):
            yield {role: sizes(by_role[role], length, *batch) for role, length in zip(order, lengths, strict=True)}


def _useful(wish: EngineWish, contexts: list[int]) -> list[int]:
    """The contexts that nobody minds much."""
    if wish.role is Role.GENERATE:
        return [length for length in contexts if length >= USEFUL_CONTEXT] or contexts[:1]
    # What the embedder has is decided: a shorter context of its own costs the generator nothing.
    is_decided = wish.budget_bytes is not None or wish.cache_bytes is not None
    return contexts if is_decided else contexts[:1]


def sizes(wish: EngineWish, context: int, batched_tokens: int, sequences: int) -> Sizes:
    """Sizes of one engine, its wishes respected."""
    if wish.role is Role.EMBED:
        batched_tokens = max(context, EMBED_BATCH)
    elif wish.shape.is_encoder:
        batched_tokens = max(context, batched_tokens)
    # No step has more sequences than tokens.
    batched_tokens = wish.batched_tokens or max(batched_tokens, wish.sequences or 0)
    return Sizes(
        context=context,
        batched_tokens=batched_tokens,
        sequences=wish.sequences or min(max(sequences, wish.concurrency or 0), batched_tokens),
    )


def _contexts(wish: EngineWish) -> list[int]:
    longest = wish.shape.max_context
    if wish.context is not None:
        return [wish.context]
    usual = [context for context in CONTEXTS[wish.role] if context < longest]
    # A generator may use all that its model can do; an embedder's batches would become too large.
    return [longest, *usual] if wish.role is Role.GENERATE or longest <= CONTEXTS[Role.EMBED][0] else usual


def cpu_contexts(wish: EngineWish) -> list[int]:
    """Context lengths to try on the CPU, the longest first."""
    if wish.context is not None:
        return [wish.context]
    usual = CONTEXTS[Role.GENERATE]
    return [wish.shape.max_context, *(context for context in usual if context < wish.shape.max_context)]
