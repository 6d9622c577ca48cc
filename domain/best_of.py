"""The best of several choices, as `best_of` asks for them.

Source: OpenAI's `CreateCompletionRequest`: the best is the one with the highest log probability per token.
"""

import msgspec

from domain.results import GenerationDelta, GenerationResult


def keep_best(result: GenerationResult, *, keep: int, is_echoed: bool, with_logprobs: bool) -> GenerationResult:
    """The result with its best choices alone, renumbered from 0, the best first.

    Args:
        result: whole choices, each with log probabilities.
        keep: how many choices to keep.
        is_echoed: whether the prompt's tokens precede those of the choices; they don't count.
        with_logprobs: whether the client asked for log probabilities itself.
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
    numbers = [token.logprob for token in (choice.logprobs or [])[skip:] if token.logprob is not None]
    return sum(numbers) / len(numbers) if numbers else float("-inf")
