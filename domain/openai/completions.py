"""Request and response schemas of `POST /v1/completions`.

Source: OpenAI's schemas `CreateCompletionRequest` and `CreateCompletionResponse`; the chunks of a stream have the
response's schema.
"""

from typing import Annotated, Literal

import msgspec

from domain.errors import InvalidRequestError
from domain.openai.common import PromptInput, Usage, as_prompts
from domain.openai.field import describe
from domain.openai.sampling import SamplingFields
from domain.requests import GenerationRequest
from domain.results import FinishReason

MAX_PROMPTS = 2048
DEFAULT_MAX_TOKENS = 16


class CompletionBody(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a completion request."""

    model: Annotated[str, describe("Name or alias of the generation model.")]
    prompt: Annotated[PromptInput, describe("Text, texts, token ids or lists of token ids; at most 2,048.")]
    best_of: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=20)] | None,
        describe(
            "Choices to generate, of which the `n` with the highest mean log probability are returned; no streams."
        ),
    ] = None
    echo: Annotated[bool | None, describe("Prepend the prompt to the text.")] = None
    logprobs: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=5)] | None,
        describe("Return log probabilities, and this number of most likely tokens."),
    ] = None
    suffix: Annotated[
        str | None,
        describe("Text that follows the completion, for models whose vocabulary supports fill-in-the-middle."),
    ] = None

    add_special_tokens: Annotated[
        bool | None, describe("Whether the tokenizer adds special tokens to a text.", vllm=True)
    ] = None

    @property
    def candidates(self) -> int:
        """Choices to generate per prompt: `n`, or `best_of` if that is larger."""
        return max(self.best_of or 0, self.n or 1)

    def to_requests(self) -> list[GenerationRequest]:
        """Convert to one domain request per prompt, in order.

        Raises:
            InvalidRequestError: an invalid combination of parameters.
        """
        self._check_combinations()
        max_tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        logprobs = self.logprobs
        if self.candidates > (self.n or 1) and logprobs is None:
            # Needed to choose the best, even if the client did not request them.
            logprobs = 0
        sampling = self.to_sampling(max_tokens=max_tokens, logprobs=logprobs, n=self.n or 1)
        sampling = msgspec.structs.replace(sampling, n=self.candidates)
        prompts = as_prompts(self.prompt, "prompt")
        if len(prompts) > MAX_PROMPTS:
            raise InvalidRequestError(
                f"'prompt' has {len(prompts)} items; at most {MAX_PROMPTS} are allowed.",
                param="prompt",
                code="array_above_max_length",
            )
        if self.suffix and not all(isinstance(prompt, str) for prompt in prompts):
            raise InvalidRequestError(
                "'suffix' requires a 'prompt' that is text.", param="suffix", code="unsupported_value"
            )
        return [
            GenerationRequest(
                prompt=prompt,
                sampling=sampling,
                suffix=self.suffix or None,
                echo=bool(self.echo),
                truncate_prompt_tokens=self.truncate_prompt_tokens,
                add_special_tokens=self.add_special_tokens,
            )
            for prompt in prompts
        ]

    def _check_combinations(self) -> None:
        self.check_stream_options()
        if self.best_of and self.best_of < (self.n or 1):
            raise InvalidRequestError(
                f"'best_of' ({self.best_of}) must not be below 'n' ({self.n or 1}).",
                param="best_of",
                code="invalid_value",
            )
        if self.candidates > (self.n or 1) and self.stream:
            raise InvalidRequestError(
                "'best_of' above 'n' can't be streamed: the best are known only at the end.",
                param="best_of",
                code="unsupported_value",
            )
        if self.suffix and self.echo:
            raise InvalidRequestError(
                "'echo' can't be used together with 'suffix'.", param="echo", code="unsupported_value"
            )
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequestError(
                "'max_tokens' must be at least 1, or 0 together with 'echo'.",
                param="max_tokens",
                code="integer_below_min_value",
            )


class Logprobs(msgspec.Struct, kw_only=True):
    """Log probabilities as four parallel lists.

    `text_offset[i]` is the offset of token i in the choice's text, in characters.
    """

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice; in a stream, a delta of it."""

    finish_reason: FinishReason | None
    index: int
    logprobs: Logprobs | None
    text: str


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The complete response, or a chunk of a stream.

    In a stream with `include_usage`, `usage` is null on all chunks but the last; otherwise it is absent.
    """

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None | msgspec.UnsetType = msgspec.UNSET
