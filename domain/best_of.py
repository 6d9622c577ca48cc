"""The best of several choices, as `best_of` asks for them.

Source: OpenAI's `CreateCompletionRequest`: the best is the one with the highest log probability per token.
"""

from collections.abc import Mapping

import msgspec

from domain.results import GenerationDelta


def keep_best(
    deltas: list[tuple[int, GenerationDelta]],
    *,
    keep: int,
    echoed_tokens: Mapping[int, int],
    tell_logprobs: bool,
) -> list[tuple[int, GenerationDelta]]:
    """The deltas of each prompt's best choices, numbered anew from 0, the best first.

    Args:
        deltas: (index of the prompt, delta) pairs of whole choices, each with log probabilities.
        keep: how many choices of each prompt to keep.
        echoed_tokens: for each prompt, how many of its tokens stand in front; they don't count.
        tell_logprobs: whether the client asked for log probabilities itself.
    """
    choices: dict[int, list[GenerationDelta]] = {}
    for prompt_index, delta in deltas:
        choices.setdefault(prompt_index, []).append(delta)
    kept: list[tuple[int, GenerationDelta]] = []
    for prompt_index, rivals in sorted(choices.items()):
        skip = echoed_tokens.get(prompt_index, 0)
        rivals.sort(key=lambda delta: _mean_logprob(delta, skip), reverse=True)
        for index, delta in enumerate(rivals[:keep]):
            logprobs = delta.logprobs if tell_logprobs else None
            kept.append((prompt_index, msgspec.structs.replace(delta, index=index, logprobs=logprobs)))
    return kept


def _mean_logprob(delta: GenerationDelta, skip: int) -> float:
    numbers = [token.logprob for token in (delta.logprobs or [])[skip:] if token.logprob is not None]
    return sum(numbers) / len(numbers) if numbers else float("-inf")
