"""Sizes that the planner tries for engines without settings: context lengths and batches, largest first."""

from collections.abc import Iterator, Sequence
from itertools import product

import msgspec

from domain.memory_plan.types import Card, EngineRequirements
from domain.roles import ROLES
from domain.units import GIB

LARGE_CARD = 70 * GIB
"""vLLM uses larger default batches from this size on (`vllm.engine.arg_utils.EngineArgs.get_batch_defaults`)."""
BATCHES = ((2048, 256), (2048, 128), (2048, 64), (1024, 32), (512, 16))
"""Tokens and sequences per batch. The first is vLLM's default on cards below LARGE_CARD."""
LARGE_BATCHES = ((8192, 256), *BATCHES)
USEFUL_CONTEXT = 8192
USEFUL_SEQUENCES = 64
CPU_BATCH = (2048, 128)
"""vLLM's default on the CPU."""
CPU_CONTEXTS = (32768, 16384, 8192, 4096, 2048)
POOLING_BATCH = 2048
"""Minimum batch size of a pooling engine in tokens, so that many short texts are computed together."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of one engine."""

    context: int
    batched_tokens: int
    sequences: int


def gpu_sizes(card: Card, engines: Sequence[EngineRequirements]) -> Iterator[list[Sizes]]:
    """Combinations of sizes of all engines, in their order; least costly combinations first.

    At first only reductions that hardly matter: contexts of generating engines down to USEFUL_CONTEXT, and batches
    down to USEFUL_SEQUENCES. Then all small sizes: batches first, which cost only speed under load, then contexts
    of pooling engines, and contexts of generating engines last.
    """
    batches = LARGE_BATCHES if card.total_bytes >= LARGE_CARD else BATCHES
    large_batches = [batch for batch in batches if batch[1] >= USEFUL_SEQUENCES]
    contexts = [_contexts(engine) for engine in engines]
    useful = [_useful(engine, lengths) for engine, lengths in zip(engines, contexts, strict=True)]
    small = [[length for length in lengths if length <= USEFUL_CONTEXT] or lengths[-1:] for lengths in contexts]
    for lengths_of, batches_of in ((useful, large_batches), (small, batches)):
        for lengths, batch in product(_combinations(engines, lengths_of), batches_of):
            yield [sizes(engine, length, *batch) for engine, length in zip(engines, lengths, strict=True)]


def _combinations(
    engines: Sequence[EngineRequirements], lengths_of: Sequence[Sequence[int]]
) -> Iterator[tuple[int, ...]]:
    """One context per engine, in their order; the contexts of pooling engines vary fastest."""
    order = sorted(range(len(engines)), key=lambda index: not ROLES[engines[index].role].generates)
    for lengths in product(*(lengths_of[index] for index in order)):
        by_index = dict(zip(order, lengths, strict=True))
        yield tuple(by_index[index] for index in range(len(engines)))


def _useful(engine: EngineRequirements, contexts: list[int]) -> list[int]:
    """Contexts whose reduction hardly matters."""
    if ROLES[engine.role].generates:
        return [length for length in contexts if length >= USEFUL_CONTEXT] or contexts[:1]
    # If the memory of a pooling engine is set, a shorter context costs the other engines nothing.
    is_set = engine.budget_bytes is not None or engine.cache_bytes is not None
    return contexts if is_set else contexts[:1]


def sizes(engine: EngineRequirements, context: int, batched_tokens: int, sequences: int) -> Sizes:
    """Sizes of one engine; values of its requirements take precedence."""
    if not ROLES[engine.role].generates:
        batched_tokens = max(context, POOLING_BATCH)
    elif engine.shape.is_encoder:
        batched_tokens = max(context, batched_tokens)
    # No step has more sequences than tokens.
    batched_tokens = engine.batched_tokens or max(batched_tokens, engine.sequences or 0)
    return Sizes(
        context=context,
        batched_tokens=batched_tokens,
        sequences=engine.sequences or min(max(sequences, engine.concurrency or 0), batched_tokens),
    )


def _contexts(engine: EngineRequirements) -> list[int]:
    if engine.context is not None:
        return [engine.context]
    info, longest = ROLES[engine.role], engine.shape.max_context
    usual = [context for context in info.context_lengths if context < longest]
    # A generating engine may use the model's full context; the batches of a pooling engine would become too large.
    return [longest, *usual] if info.generates or longest <= info.context_lengths[0] else usual


def cpu_contexts(engine: EngineRequirements) -> list[int]:
    """Context lengths to try on the CPU, the longest first."""
    if engine.context is not None:
        return [engine.context]
    longest = engine.shape.max_context
    return [longest, *(context for context in CPU_CONTEXTS if context < longest)]
