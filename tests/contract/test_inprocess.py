"""What is in process alone, on vLLM's own types: no engine runs here."""

from typing import Any

import pytest

from domain.backend import GenerationRequest, Role
from domain.errors import InvalidRequestError
from domain.sampling import SamplingParameters

pytestmark = pytest.mark.integration


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, token_id: int) -> str:
        return chr(token_id)


def output(*choices: tuple[int, str], prompt: str, tells_prompt: bool) -> Any:
    """An output of vLLM's for a prompt, with what some choices, by their numbers, gained."""
    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput

    def logprobs(text: str) -> list[dict[int, Any]]:
        return [{ord(letter): Logprob(-0.5, 1, letter)} for letter in text]

    return RequestOutput(
        "id",
        prompt,
        [ord(letter) for letter in prompt],
        [None, *logprobs(prompt[1:])] if tells_prompt else [],
        [
            CompletionOutput(index, text, [ord(letter) for letter in text], None, logprobs(text))
            for index, text in choices
        ],
        finished=False,
    )


def test_logprobs_of_a_prompt_that_come_once_are_told_by_each_choice(inprocess_setups: dict[Role, object]) -> None:
    from adapters.vllm_inprocess.choices import Choices

    sampling = SamplingParameters(n=2, logprobs=0)
    request = GenerationRequest(prompt="ab", sampling=sampling, echo=True, stream=True)
    choices = Choices(request, prompt_text="ab", tokenizer=Letters())
    told = [
        *choices.deltas(output((0, "x"), prompt="ab", tells_prompt=True)),
        *choices.deltas(output((0, "y"), (1, "z"), prompt="ab", tells_prompt=False)),
    ]
    assert [(delta.index, delta.text) for delta in told] == [(0, "abx"), (0, "y"), (1, "abz")]
    assert ["".join(token.token for token in delta.logprobs or []) for delta in told] == ["abx", "y", "abz"]


@pytest.fixture
def backend(inprocess_setups: dict[Role, object]) -> Any:
    """A generator whose engine has not been started."""
    from adapters.vllm_inprocess.backend import VLLMInProcessBackend

    return VLLMInProcessBackend(role=Role.GENERATE, name="tiny-gen", setup=inprocess_setups[Role.GENERATE])


def fail(progress: Any, *, has_output: bool) -> None:
    progress.has_output = has_output
    raise ValueError("That can't be.")


def test_what_the_engine_finds_wrong_with_a_request_is_a_refusal(backend: Any) -> None:
    with pytest.raises(InvalidRequestError), backend._translated("prompt") as progress:
        fail(progress, has_output=False)


def test_what_fails_once_the_engine_answers_is_no_refusal(backend: Any) -> None:
    with pytest.raises(ValueError), backend._translated("prompt") as progress:
        fail(progress, has_output=True)


def test_a_mistake_of_our_own_is_no_refusal(backend: Any) -> None:
    from adapters.vllm_inprocess.translate import prompt_logprobs

    with pytest.raises(ValueError, match="zip"), backend._translated("prompt"):
        prompt_logprobs(output((0, "x"), prompt="ab", tells_prompt=False), 0, Letters())
