"""Parameters that only a real engine supports, on both real backends."""

import pytest

from domain.conversation import Conversation, UserMessage
from domain.errors import InvalidRequestError
from domain.results import FinishReason
from domain.sampling import StructuredOutputs
from tests.contract.cases import Case, generate
from tests.contract.conftest import REAL_KINDS

pytestmark = pytest.mark.integration

PROMPT = "The quick brown fox"
# Many of them have a different first token after a space, and count twice.
WORDS = [first + second for first in "abcdefghijklmnop" for second in "xyzwvuts"]
CHAT = Conversation(messages=[UserMessage(content=PROMPT)], template_arguments={"enable_thinking": False})
NEVER_END = {0: -100.0}


@pytest.fixture(scope="module", params=REAL_KINDS)
def kind_name(request: pytest.FixtureRequest) -> str:
    return request.param


def token(case: Case, text: str) -> int:
    (found,) = case.tokenize(text)
    return found


async def test_top_k_of_one_is_greedy(generator: Case) -> None:
    greedy = await generate(generator, PROMPT)
    assert (await generate(generator, PROMPT, temperature=2.0, top_k=1)).text() == greedy.text()


async def test_min_p_of_one_is_greedy(generator: Case) -> None:
    greedy = await generate(generator, PROMPT)
    assert (await generate(generator, PROMPT, temperature=2.0, min_p=1.0)).text() == greedy.text()


async def test_only_allowed_tokens_are_generated(generator: Case) -> None:
    allowed = [token(generator, "a"), token(generator, "b")]
    answer = await generate(generator, PROMPT, allowed_token_ids=allowed, temperature=1.0)
    assert set(answer.text()) <= {"a", "b"}


async def test_a_stop_token_ends_the_text(generator: Case) -> None:
    bias = {token(generator, "a"): 100.0}
    answer = await generate(generator, PROMPT, logit_bias=bias, stop_token_ids=[token(generator, "a")])
    assert answer.finish_reason is FinishReason.STOP
    assert answer.usage.completion_tokens == 1


async def test_min_tokens_delays_the_end(generator: Case) -> None:
    stop = {"logit_bias": {token(generator, "a"): 50.0}, "stop_token_ids": [token(generator, "a")]}
    answer = await generate(generator, PROMPT, **stop, min_tokens=4)
    assert answer.usage.completion_tokens == 5


async def test_the_end_of_sequence_can_be_ignored(generator: Case) -> None:
    bias = {0: 100.0}
    assert (await generate(generator, PROMPT, logit_bias=bias)).usage.completion_tokens == 1
    assert (await generate(generator, PROMPT, logit_bias=bias, ignore_eos=True)).usage.completion_tokens == 8


async def test_special_tokens_can_be_shown(generator: Case) -> None:
    bias = {"logit_bias": {0: 100.0}, "ignore_eos": True, "max_tokens": 2}
    assert (await generate(generator, PROMPT, **bias)).text() == ""
    shown = await generate(generator, PROMPT, **bias, skip_special_tokens=False)
    assert shown.text() == "<|endoftext|>" * 2


async def test_the_stop_sequence_can_be_kept(generator: Case) -> None:
    bias = {token(generator, "a"): 100.0}
    cut = await generate(generator, PROMPT, logit_bias=bias, stop=["aa"])
    kept = await generate(generator, PROMPT, logit_bias=bias, stop=["aa"], include_stop_str_in_output=True)
    assert (cut.text(), kept.text()) == ("", "aa")


async def test_bad_words_are_not_generated(generator: Case) -> None:
    free = await generate(generator, PROMPT, max_tokens=1, logit_bias={token(generator, "a"): 30.0})
    barred = await generate(
        generator, PROMPT, max_tokens=1, logit_bias={token(generator, "a"): 30.0}, bad_words=["a"]
    )
    assert free.text() == "a" != barred.text()


async def test_repetition_is_penalized(generator: Case) -> None:
    free = await generate(generator, PROMPT, max_tokens=24, logit_bias=NEVER_END)
    penalized = await generate(generator, PROMPT, max_tokens=24, logit_bias=NEVER_END, repetition_penalty=50.0)
    assert free.text() != penalized.text()


async def test_a_regular_expression_is_followed(generator: Case) -> None:
    outputs = StructuredOutputs(regex="[0-9]{3}-[a-c]{2}")
    answer = await generate(generator, CHAT, structured_outputs=outputs, max_tokens=20)
    assert answer.text()[3] == "-"
    assert answer.text()[:3].isdigit()


async def test_a_grammar_is_followed(generator: Case) -> None:
    outputs = StructuredOutputs(grammar='root ::= "x" ("y" | "z") "!"')
    answer = await generate(generator, CHAT, structured_outputs=outputs, max_tokens=20)
    assert answer.text() in ("xy!", "xz!")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop_token_ids": [100_000]}, "stop_token_ids"),
        ({"stop_token_ids": [100_000], "min_tokens": 4}, "stop_token_ids"),
        ({"allowed_token_ids": [100_000]}, "allowed_token_ids"),
        ({"logit_bias": {100_000: 1.0}}, "logit_bias"),
        ({"bad_words": WORDS}, "bad_words"),
        ({"min_tokens": 9000, "max_tokens": None}, "min_tokens"),
        ({"structured_outputs": StructuredOutputs(regex="([")}, "structured_outputs"),
        ({"structured_outputs": StructuredOutputs(regex="(a{1,1000}){1,1000}{1,1000}")}, "structured_outputs"),
        ({"structured_outputs": StructuredOutputs(regex="a\x00")}, "structured_outputs"),
        ({"structured_outputs": StructuredOutputs(grammar="root ::= nowhere")}, "structured_outputs"),
        ({"structured_outputs": StructuredOutputs(grammar="root ::= root")}, "structured_outputs"),
        ({"structured_outputs": StructuredOutputs(json={"$ref": "#"})}, "structured_outputs"),
        ({"structured_outputs": StructuredOutputs(json={"enum": []})}, "structured_outputs"),
        ({"structured_outputs": StructuredOutputs(json="{nope")}, "structured_outputs"),
        ({"structured_outputs": StructuredOutputs(json_object=False)}, "structured_outputs"),
        ({"structured_outputs": StructuredOutputs(structural_tag="{}")}, "structured_outputs"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_invalid_parameters_are_rejected_and_the_engine_keeps_working(
    generator: Case, fields: dict, param: str, stream: bool
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await generate(generator, CHAT, stream=stream, **fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert (await generate(generator, PROMPT, max_tokens=2)).usage.completion_tokens == 2
