"""Schemas and checks that several endpoints share."""

from collections.abc import Sequence
from typing import Annotated, TypeGuard

import msgspec

from domain.errors import InvalidRequestError
from domain.random_id import random_hex
from domain.requests import Prompt
from domain.results import GenerationUsage

PromptInput = str | list[str | int | list[int]]
"""Text, texts, token ids, or lists of token ids. msgspec has no union of array types, so `as_prompts` checks that
all items of a list have one type."""

MAX_TOKEN_ID = 2**31 - 1
TextMap = Annotated[
    dict[
        Annotated[str, msgspec.Meta(max_length=64)],
        Annotated[str, msgspec.Meta(max_length=512)],
    ],
    msgspec.Meta(max_length=16),
]
"""OpenAI's schema `Metadata`."""
TokenId = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKEN_ID)]


class PromptTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Breakdown of prompt tokens."""

    audio_tokens: int = 0
    cached_tokens: int
    """Tokens that the engine took from its prefix cache."""


class CompletionTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Breakdown of completion tokens."""

    reasoning_tokens: int


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """OpenAI's schema `CompletionUsage`.

    Details of the prompt are present if the engine reports them, those of the completion for reasoning models.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


class UsageCounter:
    """Adds up the usage of all prompts of one request."""

    def __init__(self) -> None:
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._reasoning_tokens: int | None = None
        self._cached_tokens: int | None = None

    def add(self, usage: GenerationUsage) -> None:
        """Add one prompt's usage."""
        self._prompt_tokens += usage.prompt_tokens
        self._completion_tokens += usage.completion_tokens
        self._reasoning_tokens = _sum(self._reasoning_tokens, usage.reasoning_tokens)
        self._cached_tokens = _sum(self._cached_tokens, usage.cached_tokens)

    @property
    def total_tokens(self) -> int:
        """Tokens of prompts and answers so far."""
        return self._prompt_tokens + self._completion_tokens

    def total(self) -> Usage:
        """The total so far."""
        reasoning, cached = self._reasoning_tokens, self._cached_tokens
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            total_tokens=self.total_tokens,
            prompt_tokens_details=None if cached is None else PromptTokensDetails(cached_tokens=cached),
            completion_tokens_details=(
                None if reasoning is None else CompletionTokensDetails(reasoning_tokens=reasoning)
            ),
        )


def _sum(total: int | None, tokens: int | None) -> int | None:
    """The sum of what is known; None if nothing is."""
    return total if tokens is None else (total or 0) + tokens


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's schema `ChatCompletionStreamOptions`."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Accepted and ignored: no padding is added to chunks."""


def new_id(prefix: str) -> str:
    """A new id such as `cmpl-6f1c…`, with 32 hexadecimal digits."""
    return f"{prefix}-{random_hex()}"


def as_prompts(value: PromptInput, param: str) -> list[Prompt]:
    """Convert prompts in any of OpenAI's four formats to a non-empty list.

    Raises:
        InvalidRequestError: the list is empty, mixes types, or contains an empty text or an invalid token id.
    """
    if isinstance(value, str):
        prompts: list[Prompt] = [value]
    elif not value:
        raise InvalidRequestError(f"'{param}' must not be an empty array.", param=param, code="empty_array")
    elif _all_ints(value):
        prompts = [value]
    elif _all_texts(value) or _all_token_lists(value):
        prompts = list(value)
    else:
        raise InvalidRequestError(
            f"Invalid type for '{param}': an array must contain only strings, only token ids, or only arrays "
            "of token ids.",
            param=param,
            code="invalid_type",
        )
    for position, prompt in enumerate(prompts):
        _check_prompt(prompt, param if len(prompts) == 1 else f"{param}[{position}]")
    return prompts


def check_truncation(tokens: int | None) -> None:
    """Raise InvalidRequestError if `truncate_prompt_tokens` is 0, which leaves nothing of a prompt."""
    if tokens == 0:
        raise InvalidRequestError(
            "'truncate_prompt_tokens' must be at least 1, or -1 for the model's context length.",
            param="truncate_prompt_tokens",
            code="integer_below_min_value",
        )


def _all_ints(value: Sequence[object]) -> TypeGuard[list[int]]:
    return all(type(item) is int for item in value)


def _all_texts(value: Sequence[object]) -> TypeGuard[list[str]]:
    return all(type(item) is str for item in value)


def _all_token_lists(value: Sequence[object]) -> TypeGuard[list[list[int]]]:
    return all(type(item) is list for item in value)


def _check_prompt(prompt: Prompt, param: str) -> None:
    if not prompt:
        raise InvalidRequestError(f"'{param}' must not be empty.", param=param, code="empty_input")
    if isinstance(prompt, list) and not all(0 <= token <= MAX_TOKEN_ID for token in prompt):
        raise InvalidRequestError(
            f"'{param}' contains an invalid token id. Token ids are integers from 0 to the size of the model's "
            "vocabulary.",
            param=param,
            code="invalid_value",
        )
