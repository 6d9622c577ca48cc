import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.vllm.dialect.text_logprobs import TextLogprobs
from domain.choices import join_deltas
from domain.results import FinishReason, GenerationDelta, TokenLogprob

STOP = FinishReason.STOP


def entries(*texts: str) -> list[TokenLogprob]:
    return [TokenLogprob(text, -0.5, [(text, -0.5)]) for text in texts]


def part(*texts: str, text: str = "", reasoning: str = "", end: FinishReason | None = None) -> GenerationDelta:
    """A delta with the tokens that arrived with it."""
    return GenerationDelta(index=0, text=text, reasoning=reasoning, logprobs=entries(*texts), finish_reason=end)


def kept(*deltas: GenerationDelta) -> list[list[str]]:
    """The tokens of each delta that remain."""
    reducer = TextLogprobs()
    return [[token.token for token in reducer.reduce(delta).logprobs or []] for delta in deltas]


def test_the_token_that_ends_the_turn_is_dropped():
    assert kept(part("Hi", "!", "<|im_end|>", text="Hi!", end=STOP)) == [["Hi", "!"]]
    streamed = [part("Hi", text="Hi"), part("!", text="!"), part("<|im_end|>", end=STOP)]
    assert kept(*streamed) == [["Hi"], ["!"], []]


def test_entries_keep_their_numbers():
    (delta,) = [TextLogprobs().reduce(part("a", "<end>", text="a", end=STOP))]
    assert delta.logprobs == [TokenLogprob("a", -0.5, [("a", -0.5)])]


def test_special_tokens_within_the_text_are_dropped():
    assert kept(part("a", "<|fim|>", " b", text="a b", end=STOP)) == [["a", " b"]]


def test_reasoning_is_not_content():
    tokens = ("<think>", "\n", "I", " see", "</think>", "\n\n", "I", " do", "<end>")
    assert kept(part(*tokens, reasoning="I see", text="I do", end=STOP)) == [["I", " do"]]
    assert kept(part(*tokens, reasoning="\nI see", text="\n\nI do", end=STOP)) == [["\n\n", "I", " do"]]


def test_reasoning_alone_has_no_entries():
    assert kept(part("I", " see", reasoning="I see", end=FinishReason.LENGTH)) == [[]]


def test_streamed_reasoning_is_not_content():
    deltas = [
        part("<think>"),
        part("I", reasoning="I"),
        part(" see", reasoning=" see"),
        part("</think>"),
        part("I", text="I"),
        part(" do", text=" do"),
        part("<end>", end=STOP),
    ]
    assert kept(*deltas) == [[], [], [], [], ["I"], [" do"], []]


def test_one_delta_may_end_the_reasoning_and_begin_the_text():
    assert kept(part("x", "</think>", "y", reasoning="x", text="y")) == [["y"]]


def test_markup_of_tool_calls_is_dropped():
    tokens = ("Let", " me", "<tool_call>", '{"name"', ': "f"}', "</tool_call>", "<end>")
    assert kept(part(*tokens, text="Let me", end=STOP)) == [["Let", " me"]]
    assert kept(part(*tokens[2:], end=STOP)) == [[]]


def test_text_after_a_call_is_kept():
    deltas = [
        part("a", text="a"),
        part("<tool_call>"),
        part("{}"),
        part("</tool_call>"),
        part("b", text="b", end=STOP),
    ]
    assert kept(*deltas) == [["a"], [], [], [], ["b"]]


def test_text_that_is_held_back_holds_back_its_entries():
    """vLLM holds back what may become a stop sequence."""
    deltas = [part("He"), part("llo", text="He"), part(" you", text="llo"), part("<end>", text=" you", end=STOP)]
    assert kept(*deltas) == [[], ["He"], ["llo"], [" you"]]


def test_a_token_is_complete_when_all_of_its_text_has_arrived():
    assert kept(part("Hello", text="He"), part("", text="llo")) == [[], ["Hello"]]


def test_tokens_of_a_stop_sequence_are_cut_off():
    assert kept(part("Hello", " wor", "ld", text="Hello w", end=STOP)) == [["Hello", " w"]]
    assert kept(part("Hello", text="Hello"), part(" wor"), part("ld", text=" w", end=STOP)) == [
        ["Hello"],
        [],
        [" w"],
    ]


def test_tokens_that_are_a_part_of_a_character_come_with_it():
    assert kept(part("a", "", "", "é", "<end>", text="aé", end=STOP)) == [["a", "", "", "é"]]
    assert kept(part("a", text="a"), part(""), part("é", text="é")) == [["a"], [], ["", "é"]]


def test_invalid_bytes_belong_to_the_next_token_or_to_the_last():
    assert kept(part("a", "", "b", text="a\ufffdb", end=STOP)) == [["a", "", "\ufffdb"]]
    assert kept(part("a", "", "<end>", text="a\ufffd", end=STOP)) == [["a", "\ufffd"]]
    assert kept(part("a", "", text="a\ufffd", end=FinishReason.LENGTH)) == [["a", "\ufffd"]]


def test_invalid_bytes_at_the_end_of_reasoning_hide_no_text():
    tokens = ("x", "", "</think>", "y")
    assert kept(part(*tokens, reasoning="x\ufffd", text="y", end=STOP)) == [["y"]]


def test_spaces_that_single_tokens_lack_belong_to_the_word():
    assert kept(part("Hello", "world", "</s>", text="Hello world", end=STOP)) == [["Hello", " world"]]


def test_spaces_that_the_text_lacks_are_removed():
    assert kept(part("\n\nHello", " .", text="Hello.", end=STOP)) == [["Hello", "."]]


def test_without_logprobs_a_delta_is_unchanged():
    delta = GenerationDelta(index=0, text="a", finish_reason=STOP)
    assert TextLogprobs().reduce(delta) is delta


PIECES = ["a", "b", "ab", " a", " ", "\n", "", "é", "<think>", "</think>", "<end>"]


@given(
    reasoning=st.lists(st.sampled_from(PIECES[:8]), max_size=6),
    text=st.lists(st.sampled_from(PIECES[:8]), min_size=1, max_size=8),
    lag=st.integers(0, 4),
    size=st.integers(1, 5),
)
@settings(max_examples=300, deadline=None)
def test_joined_entries_are_the_text(reasoning, text, lag, size):
    """Whatever the tokens are, in how large steps they arrive, and how far the text lags behind."""
    tokens = ["<think>", *reasoning, "</think>", *text, "<end>"]
    shown = ["", *reasoning, "", *text, ""]
    begin = len(reasoning) + 2
    deltas = []
    for at in range(0, len(tokens) + lag, size):
        released = range(max(at - lag, 0), max(min(at + size - lag, len(tokens)), 0))
        is_last = at + size >= len(tokens) + lag
        deltas.append(
            part(
                *tokens[at : at + size],
                reasoning="".join(shown[i] for i in released if i < begin),
                text="".join(shown[i] for i in released if i >= begin),
                end=STOP if is_last else None,
            )
        )
    reducer = TextLogprobs()
    (choice,) = join_deltas([reducer.reduce(delta) for delta in deltas])
    assert choice.text == "".join(text)
    assert "".join(token.token for token in choice.logprobs) == choice.text


@pytest.mark.parametrize("size", [1, 3, 100])
def test_long_texts_take_linear_time(size):
    tokens = [f" word{number}" for number in range(20_000)]
    deltas = [
        part(*tokens[at : at + size], text="".join(tokens[at : at + size])) for at in range(0, len(tokens), size)
    ]
    assert sum(map(len, kept(*deltas))) == len(tokens)
    (found,) = kept(part(*tokens, text="".join(tokens), end=STOP))
    assert len(found) == len(tokens)


def test_tokens_that_are_not_in_a_long_gap_take_linear_time():
    def took(count: int) -> float:
        tokens = [f"<{number}>" for number in range(count)]
        began = time.process_time()
        assert kept(part(*tokens, text="\n" * count + "x", end=STOP)) == [[]]
        return time.process_time() - began

    rounds = [(took(1_000), took(10_000)) for _ in range(3)]
    short, long = (min(times) for times in zip(*rounds, strict=True))
    # A quadratic one would take 100 times as long.
    assert long < 25 * short
