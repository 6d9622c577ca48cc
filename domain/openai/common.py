"""Pieces that several endpoints share."""

import uuid
from collections.abc import Sequence
from typing import TypeGuard

import msgspec

from domain.backend import Prompt
from domain.errors import InvalidRequestError

PromptInput = str | list[str | int | list[int]]
"""Text, texts, token ids, or lists of token ids. msgspec has no union of array types, so that a list is of
one kind is checked afterwards, by `as_prompts`."""

MAX_TOKEN_ID = 2**31 - 1


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's schema `CompletionUsage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def completion_usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    """Usage with its total."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's schema `ChatCompletionStreamOptions`."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Accepted and without effect: no padding is added to chunks."""


def new_id(prefix: str) -> str:
    """A fresh id such as `cmpl-6f1c…`, with 32 hexadecimal digits."""
    return f"{prefix}-{uuid.uuid4().hex}"


def as_prompts(value: PromptInput, param: str) -> list[Prompt]:
    """The prompts in any of OpenAI's four forms, as a list with at least one.

    Raises:
        InvalidRequestError: the list is empty, mixes kinds, or holds an empty text or an impossible token.
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
            f"Invalid type for '{param}': an array must hold only strings, only token ids, or only arrays "
            "of token ids.",
            param=param,
            code="invalid_type",
        )
    for position, prompt in enumerate(prompts):
        _check_prompt(prompt, param if len(prompts) == 1 else f"{param}[{position}]")
    return prompts


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
            f"'{param}' holds a number that can't be a token id: ids are whole numbers from 0 to the size of "
            "the model's vocabulary.",
            param=param,
            code="invalid_value",
        )
