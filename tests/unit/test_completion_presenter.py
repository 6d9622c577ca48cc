import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from app.http.codec import encode
from domain.choices import join_deltas
from domain.openai.completion_presenter import CompletionPresenter
from domain.results import FinishReason, GenerationDelta, GenerationResult, GenerationUsage, TokenLogprob

CHOICES = 2
tokens = st.builds(TokenLogprob, st.text(max_size=3), st.just(-0.5), st.just([("a", -0.5), ("b", -2.0)]))
deltas = st.tuples(
    st.integers(0, 2),
    st.builds(
        GenerationDelta,
        index=st.integers(0, CHOICES - 1),
        text=st.text(max_size=4),
        logprobs=st.lists(tokens, max_size=3),
    ),
)


def presenter(*, n: int = CHOICES, include_usage: bool = False) -> CompletionPresenter:
    return CompletionPresenter(completion_id="cmpl-1", created=5, model="m", n=n, include_usage=include_usage)


def results(events) -> list[GenerationResult]:
    """The results of calls for each prompt, from (prompt, delta) pairs."""
    usage = GenerationUsage(prompt_tokens=0, completion_tokens=0)
    prompts = range(1 + max((prompt for prompt, _ in events), default=-1))
    return [
        GenerationResult(choices=join_deltas(delta for of, delta in events if of == prompt), usage=usage)
        for prompt in prompts
    ]


def chunk(one: CompletionPresenter, prompt: int, delta: GenerationDelta):
    (found,) = one.chunks(delta, prompt)
    return found


def joined(chunks) -> dict[int, dict]:
    """The choices of a stream, joined as a client does."""
    choices: dict[int, dict] = {}
    for chunk in chunks:
        (part,) = chunk.choices
        whole = choices.setdefault(part.index, {"text": "", "tokens": [], "offsets": [], "top": []})
        whole["text"] += part.text
        whole["tokens"] += part.logprobs.tokens
        whole["offsets"] += part.logprobs.text_offset
        whole["top"] += part.logprobs.top_logprobs
    return choices


@given(st.lists(deltas, max_size=20))
@settings(max_examples=20, deadline=None)
def test_joined_chunks_equal_the_complete_response(events):
    streaming, whole = presenter(), presenter().whole(results(events))
    parts = joined([chunk(streaming, index, delta) for index, delta in events])
    assert [choice.index for choice in whole.choices] == sorted(parts)
    for choice in whole.choices:
        assert parts[choice.index] == {
            "text": choice.text,
            "tokens": choice.logprobs.tokens,
            "offsets": choice.logprobs.text_offset,
            "top": choice.logprobs.top_logprobs,
        }


@given(st.lists(tokens, min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_offsets_are_the_positions_of_tokens_in_the_text(logprobs):
    text = "".join(token.token for token in logprobs)
    (choice,) = presenter().whole(results([(0, GenerationDelta(index=0, text=text, logprobs=logprobs))])).choices
    for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token
    assert choice.logprobs.text_offset == sorted(choice.logprobs.text_offset)


def test_choices_are_numbered_by_prompt_and_then_by_choice():
    events = [
        (prompt, GenerationDelta(index=index, text=f"{prompt}{index}")) for prompt in (1, 0) for index in (1, 0)
    ]
    whole = presenter().whole(results(events))
    assert [(choice.index, choice.text) for choice in whole.choices] == [
        (0, "00"),
        (1, "01"),
        (2, "10"),
        (3, "11"),
    ]
    assert [chunk(presenter(), *event).choices[0].index for event in events] == [3, 2, 1, 0]


def test_the_finish_reason_is_that_of_the_last_delta():
    events = [
        (0, GenerationDelta(index=0, text="a")),
        (0, GenerationDelta(index=0, text="b", finish_reason=FinishReason.STOP)),
    ]
    assert presenter().whole(results(events)).choices[0].finish_reason == "stop"
    assert [chunk(presenter(), *event).choices[0].finish_reason for event in events] == [None, "stop"]


def test_the_first_token_of_an_echo_has_no_probability():
    logprobs = [TokenLogprob("a", None, None), TokenLogprob("b", -1.0, [("b", -1.0)])]
    (choice,) = presenter().whole(results([(0, GenerationDelta(index=0, text="ab", logprobs=logprobs))])).choices
    assert choice.logprobs.token_logprobs == [None, -1.0]
    assert choice.logprobs.top_logprobs == [None, {"b": -1.0}]


def test_without_logprobs_there_are_none():
    delta = GenerationDelta(index=0, text="a")
    assert presenter().whole(results([(0, delta)])).choices[0].logprobs is None
    assert chunk(presenter(), 0, delta).choices[0].logprobs is None


def test_usage_is_the_sum_over_all_prompts():
    one = presenter(include_usage=True)
    usages = [
        GenerationUsage(prompt_tokens=3, completion_tokens=4),
        GenerationUsage(prompt_tokens=10, completion_tokens=20),
    ]
    usage = presenter().whole([GenerationResult(choices=[], usage=usage) for usage in usages]).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (13, 24, 37)
    assert [one.chunks(usage, index) for index, usage in enumerate(usages)] == [[], []]
    (last,) = one.last_chunks()
    assert last.usage == usage
    assert last.choices == []
    assert presenter().last_chunks() == []


def test_chunks_have_no_usage_by_default():
    delta = GenerationDelta(index=0, text="a")
    assert "usage" not in msgspec.json.decode(encode(chunk(presenter(), 0, delta)))


def test_chunks_have_null_usage_with_include_usage():
    found = chunk(presenter(include_usage=True), 0, GenerationDelta(index=0, text="a"))
    assert msgspec.json.decode(encode(found))["usage"] is None


def test_every_chunk_has_the_same_id_time_and_model():
    one = presenter(include_usage=True)
    chunks = [chunk(one, 0, GenerationDelta(index=0, text="a")), *one.last_chunks(), one.whole([])]
    assert {(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks} == {
        ("cmpl-1", 5, "m", "text_completion")
    }
