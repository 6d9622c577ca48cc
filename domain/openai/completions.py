"""`POST /v1/completions`: what is accepted and what is answered.

Source: OpenAI's schemas `CreateCompletionRequest` and `CreateCompletionResponse`; a stream sends the same
object in parts.
"""

import re
from typing import Annotated, Literal

import msgspec

from domain.backend import FinishReason, GenerationRequest, SamplingParameters
from domain.errors import InvalidRequestError
from domain.openai.common import MAX_TOKEN_ID, PromptInput, StreamOptions, Usage, as_prompts

MAX_STOPS = 4
MAX_PROMPTS = 2048
# The engine wants a nucleus above 0; OpenAI's 0 means the likeliest token alone, and so does this.
SMALLEST_TOP_P = 1e-9

# Whole numbers of at most ten digits; zeros in front are harmless.
_TOKEN_ID = re.compile(r"0{0,20}[0-9]{1,10}", re.ASCII)

Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class CompletionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request. `user` is accepted and without effect.

    `best_of` and `suffix` are accepted only where they change nothing: `best_of` equal to `n`, an empty
    `suffix`.
    """

    model: str
    prompt: PromptInput
    best_of: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    user: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream shall end with a chunk that tells the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_requests(self) -> list[GenerationRequest]:
        """One domain request for each prompt, in their order.

        Raises:
            InvalidRequestError: parameters that are each possible but not together, or not here.
        """
        self._check_combinations()
        sampling = self._sampling()
        prompts = as_prompts(self.prompt, "prompt")
        if len(prompts) > MAX_PROMPTS:
            raise InvalidRequestError(
                f"'prompt' has {len(prompts)} items; at most {MAX_PROMPTS} are allowed.",
                param="prompt",
                code="array_above_max_length",
            )
        return [
            GenerationRequest(prompt=prompt, sampling=sampling, echo=bool(self.echo), stream=bool(self.stream))
            for prompt in prompts
        ]

    def _check_combinations(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError(
                "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
            )
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidRequestError(
                "'best_of' is only supported when it equals 'n'.", param="best_of", code="unsupported_value"
            )
        if self.suffix:
            raise InvalidRequestError(
                "'suffix' is not supported by this model.", param="suffix", code="unsupported_parameter"
            )
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequestError(
                "'max_tokens' must be at least 1, or 0 together with 'echo'.",
                param="max_tokens",
                code="integer_below_min_value",
            )

    def _sampling(self) -> SamplingParameters:
        return SamplingParameters(
            max_tokens=16 if self.max_tokens is None else self.max_tokens,
            n=self.n or 1,
            temperature=self.temperature,
            top_p=None if self.top_p is None else max(self.top_p, SMALLEST_TOP_P),
            stop=_stops(self.stop),
            seed=self.seed,
            logprobs=self.logprobs,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=_logit_bias(self.logit_bias),
        )


def _stops(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop or [])
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError(
            f"'stop' has {len(stops)} sequences; at most {MAX_STOPS} are allowed.",
            param="stop",
            code="array_above_max_length",
        )
    if not all(stops):
        raise InvalidRequestError("'stop' must not hold an empty string.", param="stop")
    return stops


def _logit_bias(bias: dict[str, float] | None) -> dict[int, float] | None:
    if not bias:
        return None
    if not all(_TOKEN_ID.fullmatch(key) and int(key) <= MAX_TOKEN_ID for key in bias):
        raise InvalidRequestError(
            "The keys of 'logit_bias' must be token ids, written as whole numbers.",
            param="logit_bias",
            code="invalid_value",
        )
    return {int(key): value for key, value in bias.items()}


class Logprobs(msgspec.Struct, kw_only=True):
    """Log probabilities in the four parallel lists of the legacy endpoint.

    `text_offset[i]` is where token i begins, in characters of the choice's text.
    """

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice, or in a stream what it gained."""

    finish_reason: FinishReason | None
    index: int
    logprobs: Logprobs | None
    text: str


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, and each chunk of a stream.

    In a stream with `include_usage`, `usage` is null on all chunks but the last; without, it is absent.
    """

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None | msgspec.UnsetType = msgspec.UNSET
