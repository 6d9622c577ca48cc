"""Implements `best_of`: keeps the choices with the highest mean log probability per token.

Source: OpenAI's `CreateCompletionRequest`.
"""

import msgspec

from domain.results import GenerationDelta, GenerationResult


def keep_best(result: GenerationResult, *, keep: int, is_echoed: bool, with_logprobs: bool) -> GenerationResult:
    """The result with only its best choices, best first, renumbered from 0.

    Args:
        result: complete choices, each with log probabilities.
        keep: number of choices to keep.
        is_echoed: whether the prompt's tokens precede those of the choices; they are not counted.
        with_logprobs: whether the client requested log probabilities.
    """
    skip = result.usage.prompt_tokens if is_echoed else 0
    best = sorted(result.choices, key=lambda choice: _mean_logprob(choice, skip), reverse=True)[:keep]
    return msgspec.structs.replace(
        result,
        choices=[
            msgspec.structs.replace(choice, index=index, logprobs=choice.logprobs if with_logprobs else None)
            for index, choice in enumerate(best)
        ],
    )


def _mean_logprob(choice: GenerationDelta, skip: int) -> float:
    logprobs = [token.logprob for token in (choice.logprobs or [])[skip:] if token.logprob is not None]
    return sum(logprobs) / len(logprobs) if logprobs else float("-inf")
