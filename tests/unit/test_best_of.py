import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.best_of import keep_best
from domain.results import FinishReason, GenerationDelta, GenerationResult, GenerationUsage, TokenLogprob


def choice(index: int, *logprobs: float | None, text: str | None = None) -> GenerationDelta:
    """A complete choice, identified by its text."""
    return GenerationDelta(
        index=index,
        text=text or f"choice {index}",
        logprobs=[TokenLogprob("t", number, None) for number in logprobs],
        finish_reason=FinishReason.STOP,
    )


def kept(*choices, keep: int = 1, echoed: int = 0, with_logprobs: bool = True) -> list[GenerationDelta]:
    usage = GenerationUsage(prompt_tokens=echoed or 3, completion_tokens=9)
    result = GenerationResult(choices=list(choices), usage=usage)
    found = keep_best(result, keep=keep, is_echoed=echoed > 0, with_logprobs=with_logprobs)
    assert found.usage == usage, "usage includes the dropped choices"
    return found.choices


def texts(found) -> list[str]:
    return [delta.text for delta in found]


def test_the_best_has_the_highest_log_probability_per_token():
    # The second has the higher total, the first the higher mean.
    assert texts(kept(choice(0, -0.5, -0.5, -0.5), choice(1, -1.0))) == ["choice 0"]


def test_the_best_come_first_and_are_renumbered():
    found = kept(choice(0, -3.0), choice(1, -1.0), choice(2, -2.0), keep=2)
    assert [(delta.index, delta.text) for delta in found] == [(0, "choice 1"), (1, "choice 2")]


def test_the_first_of_equal_choices_is_kept():
    assert texts(kept(choice(0, -1.0), choice(1, -1.0))) == ["choice 0"]


@pytest.mark.parametrize(("echoed", "best"), [(2, "choice 1"), (0, "choice 0")])
def test_echoed_tokens_are_not_counted(echoed, best):
    # With the prompt's likely tokens, the shorter choice would win.
    rivals = choice(0, None, -0.1, -3.0), choice(1, None, -0.1, -2.0, -3.5)
    assert texts(kept(*rivals, echoed=echoed)) == [best]


def test_echoed_log_probabilities_are_returned():
    (delta,) = kept(choice(0, None, -1.0, -2.0), echoed=2)
    assert [token.logprob for token in delta.logprobs] == [None, -1.0, -2.0]


def test_a_choice_without_tokens_is_last():
    assert texts(kept(choice(0), choice(1, -50.0), keep=2)) == ["choice 1", "choice 0"]
    assert texts(kept(choice(0, -1.0), choice(1, -1.0, -9.0), echoed=1)) == ["choice 1"]


def test_log_probabilities_that_were_not_requested_are_removed():
    (delta,) = kept(choice(0, -1.0), with_logprobs=False)
    assert delta.logprobs is None
    assert (delta.text, delta.finish_reason) == ("choice 0", FinishReason.STOP)


numbers = st.lists(st.floats(-20, 0), min_size=1, max_size=4)


@given(st.lists(numbers, min_size=1, max_size=6), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_no_dropped_choice_is_better_than_a_kept_one(rivals, keep):
    found = kept(*(choice(index, *own, text=str(index)) for index, own in enumerate(rivals)), keep=keep)
    mean = [math.fsum(own) / len(own) for own in rivals]
    chosen = [int(delta.text) for delta in found]
    assert len(chosen) == min(keep, len(rivals))
    assert [delta.index for delta in found] == list(range(len(chosen)))
    ranks = [mean[index] for index in chosen]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(ranks))
    for index in set(range(len(rivals))) - set(chosen):
        assert mean[index] <= min(ranks) + 1e-9
