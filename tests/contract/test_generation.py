"""Contract of every backend for generation."""

import asyncio
import contextlib
import random

import pytest

from domain.errors import ContextLengthError, InvalidRequestError, WrongEndpointError
from domain.requests import EmbeddingRequest, GenerationRequest
from domain.results import FinishReason, GenerationDelta
from domain.sampling import SamplingParameters
from tests.contract.cases import CONTEXT, Case, generate
from tests.contract.waiting import cancel_running, until_idle

PROMPT = "The quick brown fox"


def random_prompt(case: Case, length: int) -> list[int]:
    """Token ids that no other test has sent, of letters."""
    letters = [case.tokenize(letter)[0] for letter in "abcdefghijklmnopqrstuvwxyz"]
    return random.choices(letters, k=length)


async def test_joined_deltas_equal_the_complete_answer(generator: Case) -> None:
    parts = await generate(generator, PROMPT, max_tokens=24)
    whole = await generate(generator, PROMPT, max_tokens=24, stream=False)
    assert len(parts.deltas) > 4
    assert len(whole.deltas) == 1
    assert parts.text() == whole.text()
    assert parts.usage == whole.usage


async def test_max_tokens_limits_the_answer(generator: Case) -> None:
    generated = await generate(generator, PROMPT, max_tokens=5, stream=False)
    assert generated.usage.completion_tokens == 5
    assert generated.deltas[-1].finish_reason is FinishReason.LENGTH


async def test_usage_counts_the_prompt(generator: Case) -> None:
    generated = await generate(generator, PROMPT)
    assert generated.usage.prompt_tokens == len(generator.tokenize(PROMPT))


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_counts_cached_prompt_tokens(generator: Case, stream: bool) -> None:
    length = generator.max_model_len * 3 // 4
    prompt = random_prompt(generator, length)
    assert (await generate(generator, prompt, stream=stream)).usage.cached_tokens == 0
    # Several servers have a cache each.
    again = [(await generate(generator, prompt, stream=stream)).usage.cached_tokens for _ in range(3)]
    assert all(cached is not None for cached in again)
    assert 0 < again[-1] < length


async def test_token_ids_and_text_give_the_same_answer(generator: Case) -> None:
    from_text = await generate(generator, PROMPT)
    from_ids = await generate(generator, generator.tokenize(PROMPT))
    assert from_text.text() == from_ids.text()


@pytest.mark.parametrize("stream", [True, False])
async def test_n_choices_differ(generator: Case, stream: bool) -> None:
    never_end = {0: -100.0}
    generated = await generate(
        generator, PROMPT, n=3, temperature=1.5, max_tokens=12, seed=7, logit_bias=never_end, stream=stream
    )
    assert {delta.index for delta in generated.deltas} == {0, 1, 2}
    assert len({generated.text(index) for index in range(3)}) > 1
    assert generated.usage.completion_tokens == 36


async def test_generation_ends_before_a_stop_sequence(generator: Case) -> None:
    free = (await generate(generator, PROMPT, max_tokens=24)).text()
    stop = free[4:6]
    for stream in (True, False):
        stopped = await generate(generator, PROMPT, max_tokens=24, stop=[stop], stream=stream)
        assert stopped.text() == free[: free.index(stop)]
        assert stopped.deltas[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("stream", [True, False])
async def test_the_last_delta_has_the_stop_sequence_that_ended_the_choice(generator: Case, stream: bool) -> None:
    free = (await generate(generator, PROMPT, max_tokens=24)).text()
    stop = free[4:6]
    only_real: list[dict] = [] if generator.is_fake else [{"include_stop_str_in_output": True}]
    for fields in [{}, {"n": 2}, *only_real]:
        stopped = await generate(generator, PROMPT, max_tokens=24, stop=["never", stop], stream=stream, **fields)
        found = {(delta.index, delta.stop_sequence) for delta in stopped.deltas if delta.finish_reason is not None}
        assert found == {(index, stop) for index in range(fields.get("n", 1))}
        assert all(delta.stop_sequence is None for delta in stopped.deltas if delta.finish_reason is None)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_choice_that_anything_else_ends_has_no_stop_sequence(generator: Case, stream: bool) -> None:
    free = await generate(generator, PROMPT, max_tokens=4, stop=["never"], stream=stream)
    assert [delta.stop_sequence for delta in free.deltas] == [None] * len(free.deltas)
    if generator.is_fake:
        return
    token = generator.tokenize("a")[0]
    fields = {"logit_bias": {token: 100.0}, "stop_token_ids": [token], "stop": ["never"]}
    ended = await generate(generator, PROMPT, stream=stream, **fields)
    assert (ended.finish_reason, ended.deltas[-1].stop_sequence) == (FinishReason.STOP, None)


async def test_the_same_seed_gives_the_same_text(generator: Case) -> None:
    texts = [
        (await generate(generator, PROMPT, seed=seed, temperature=1.5, max_tokens=16)).text() for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.parametrize("stream", [True, False])
async def test_logprobs_include_the_most_likely_tokens(generator: Case, stream: bool) -> None:
    generated = await generate(generator, PROMPT, logprobs=3, max_tokens=6, stream=stream)
    tokens = [token for delta in generated.deltas for token in delta.logprobs or []]
    assert len(tokens) == 6
    for token in tokens:
        assert token.logprob is not None
        assert token.logprob <= 0
        assert token.top is not None
        assert 3 <= len(token.top) <= 4
        assert (token.token, token.logprob) == token.top[0], "greedy sampling takes the most likely token"


async def test_no_logprobs_by_default(generator: Case) -> None:
    assert all(delta.logprobs is None for delta in (await generate(generator, PROMPT)).deltas)


@pytest.mark.parametrize("stream", [True, False])
async def test_echo_prepends_the_prompt(generator: Case, stream: bool) -> None:
    plain = await generate(generator, PROMPT)
    echoed = await generate(generator, PROMPT, echo=True, stream=stream)
    assert echoed.text() == PROMPT + plain.text()
    assert echoed.usage == plain.usage


async def test_echo_works_for_token_ids(generator: Case) -> None:
    echoed = await generate(generator, generator.tokenize(PROMPT), echo=True)
    assert echoed.text().startswith(PROMPT)


async def test_echo_includes_logprobs_of_the_prompt(generator: Case) -> None:
    echoed = await generate(generator, PROMPT, echo=True, logprobs=2, max_tokens=3, stream=False)
    tokens = echoed.deltas[0].logprobs
    assert tokens is not None
    assert len(tokens) == len(generator.tokenize(PROMPT)) + 3
    assert (tokens[0].logprob, tokens[0].top) == (None, None)
    assert all(token.logprob is not None for token in tokens[1:])
    assert "".join(token.token for token in tokens[: len(generator.tokenize(PROMPT))]) == PROMPT


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("form", ["text", "token ids"])
async def test_truncated_prompt_text_is_not_echoed(generator: Case, form: str, stream: bool) -> None:
    ids = generator.tokenize(PROMPT)
    prompt = PROMPT if form == "text" else ids
    fields = {"echo": True, "max_tokens": 0, "logprobs": 0, "stream": stream}
    for most, left in ((4, 4), (len(ids), len(ids)), (-1, len(ids))):
        echoed = await generate(generator, prompt, truncate_prompt_tokens=most, **fields)
        assert echoed.usage.prompt_tokens == left
        tokens = [token for delta in echoed.deltas for token in delta.logprobs or []]
        assert echoed.text() == "".join(token.token for token in tokens)
        assert len(tokens) == left
        assert echoed.text() in PROMPT


@pytest.mark.parametrize("stream", [True, False])
async def test_each_choice_has_the_logprobs_of_the_echoed_prompt(generator: Case, stream: bool) -> None:
    fields = {"n": 3, "temperature": 1.0, "logprobs": 1, "max_tokens": 3, "echo": True}
    echoed = await generate(generator, PROMPT, stream=stream, **fields)
    for index in range(3):
        tokens = [
            token for delta in echoed.deltas if delta.index == index and delta.logprobs for token in delta.logprobs
        ]
        assert "".join(token.token for token in tokens).startswith(PROMPT)
        assert [token.logprob for token in tokens].count(None) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_echo_without_tokens_is_the_prompt(generator: Case, stream: bool) -> None:
    echoed = await generate(generator, PROMPT, echo=True, max_tokens=0, stream=stream)
    assert echoed.text() == PROMPT
    assert echoed.usage.completion_tokens == 0


async def test_scoring_a_prompt_returns_only_its_logprobs(generator: Case) -> None:
    echoed = await generate(generator, PROMPT, echo=True, max_tokens=0, logprobs=1, stream=False)
    tokens = echoed.deltas[0].logprobs
    assert tokens is not None
    assert "".join(token.token for token in tokens) == PROMPT


async def test_logit_bias_forces_a_token(generator: Case) -> None:
    token = generator.tokenize("a")[0]
    generated = await generate(generator, PROMPT, logit_bias={token: 100.0}, max_tokens=4)
    assert generated.text() == "aaaa"


async def test_penalties_are_accepted(generator: Case) -> None:
    generated = await generate(generator, PROMPT, presence_penalty=1.0, frequency_penalty=-1.0, top_p=0.9)
    assert generated.usage.completion_tokens == 8


@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_longer_than_the_context_is_rejected(generator: Case, stream: bool) -> None:
    limit = generator.max_model_len
    text = "z1" * limit * 2
    for prompt, tokens in (([5] * (limit + 1), limit + 1), (text, len(generator.tokenize(text)))):
        with pytest.raises(ContextLengthError) as caught:
            await generate(generator, prompt, stream=stream)
        assert caught.value.param == "prompt"
        assert caught.value.message == (
            f"Input tokens exceed the configured limit of {limit} tokens. Your prompt resulted in {tokens} "
            "tokens. Please reduce the length of the prompt."
        )


@pytest.mark.parametrize("max_tokens", [8, None])
async def test_a_prompt_that_fills_the_context_is_rejected(generator: Case, max_tokens: int | None) -> None:
    with pytest.raises(ContextLengthError, match=f"{generator.max_model_len} in the prompt"):
        await generate(generator, [5] * generator.max_model_len, max_tokens=max_tokens)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("form", ["text", "token ids"])
async def test_an_answer_that_does_not_fit_behind_the_prompt_is_rejected(
    generator: Case, form: str, stream: bool
) -> None:
    limit = generator.max_model_len
    text = "z1" * ((limit - 8) // 2)
    ids = generator.tokenize(text)
    prompt = text if form == "text" else ids
    room = limit - len(ids)
    for max_tokens in (room + 1, limit, 10_000_000):
        with pytest.raises(ContextLengthError) as caught:
            await generate(generator, prompt, max_tokens=max_tokens, stream=stream)
        error = caught.value
        assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "prompt")
        assert f"you requested {len(ids) + max_tokens} tokens ({len(ids)} in the prompt" in error.message
    filled = await generate(generator, prompt, max_tokens=room, stream=stream, logit_bias={0: -100.0})
    assert filled.usage.completion_tokens == room


async def test_a_truncated_prompt_may_shorten_the_answer(generator: Case) -> None:
    """The client asked for a prompt that fits, and leaves the number of tokens to the engine."""
    limit = generator.max_model_len
    generated = await generate(generator, [5] * limit, truncate_prompt_tokens=-1, max_tokens=50, stream=False)
    assert generated.usage.prompt_tokens == limit - 1
    assert generated.usage.completion_tokens == 1


async def test_without_a_limit_generation_ends_at_the_context_length(generator: Case) -> None:
    prompt = [5] * (generator.max_model_len - 3)
    bias = {0: -100.0}
    generated = await generate(generator, prompt, max_tokens=None, stream=False, logit_bias=bias)
    assert generated.usage.completion_tokens == 3
    assert generated.deltas[-1].finish_reason is FinishReason.LENGTH


async def test_a_token_outside_the_vocabulary_is_rejected(generator: Case) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await generate(generator, [1, generator.vocabulary + 1000])
    assert (caught.value.param, caught.value.code) == ("prompt", "invalid_value")


async def test_leaving_a_stream_aborts_the_work(generator: Case) -> None:
    request = GenerationRequest(prompt=PROMPT, sampling=SamplingParameters(max_tokens=400, temperature=0.0))
    async with generator.backend.stream(request, CONTEXT) as events:
        assert isinstance(await anext(aiter(events)), GenerationDelta)
    await until_idle(generator)


async def test_entering_a_stream_waits_for_the_first_event(generator: Case) -> None:
    request = GenerationRequest(prompt=PROMPT, sampling=SamplingParameters(max_tokens=2, temperature=0.0))
    async with generator.backend.stream(request, CONTEXT) as events:
        first = asyncio.ensure_future(anext(aiter(events)))
        await asyncio.sleep(0)
        assert first.done(), "the first event is available without waiting"
        assert isinstance(first.result(), GenerationDelta)


async def test_a_rejected_request_raises_on_entering(generator: Case) -> None:
    request = GenerationRequest(prompt=[1, generator.vocabulary + 1000], sampling=SamplingParameters())
    stream = generator.backend.stream(request, CONTEXT)
    with pytest.raises(InvalidRequestError):
        await stream.__aenter__()


@pytest.mark.parametrize("stream", [True, False])
async def test_cancellation_aborts_the_work(generator: Case, stream: bool) -> None:
    many = {"max_tokens": 400, "n": 8, "temperature": 1.0, "ignore_eos": True}
    await cancel_running(generator, lambda: generate(generator, PROMPT, stream=stream, **many))


async def test_concurrent_requests_are_all_answered(generator: Case) -> None:
    alone = await generate(generator, PROMPT, max_tokens=12)
    together = await asyncio.gather(*(generate(generator, PROMPT, max_tokens=12) for _ in range(50)))
    assert {generated.text() for generated in together} == {alone.text()}


async def test_embedding_is_rejected(generator: Case) -> None:
    with pytest.raises(WrongEndpointError):
        await generator.backend.call(EmbeddingRequest(inputs=["x"]), CONTEXT)


async def test_no_tasks_leak(generator: Case) -> None:
    await generate(generator, PROMPT)
    before = asyncio.all_tasks()
    await generate(generator, PROMPT)
    with contextlib.suppress(InvalidRequestError):
        await generate(generator, [generator.vocabulary + 1000])
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before
