"""Checks that prompt and answer fit into the model's context length together.

vLLM shortens `max_tokens` to what is left of the context. OpenAI rejects such a request, and so do both adapters.
"""

import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from adapters.vllm.dialect.request_fields import conversation_fields
from domain.conversation import Conversation
from domain.errors import BackendFailedError, ContextLengthError, InvalidRequestError
from domain.requests import GenerationRequest, Prompt

MAX_COUNTED_CHARACTERS = 1_000_000
"""Prompts that are longer and do not fit are not tokenized for the sake of the error message."""
SPECIAL_TOKENS = 16
"""Tokens that a tokenizer may add to a text."""
TEMPLATE_TOKENS = 1024
"""Tokens that a chat template may add to a conversation: instructions for tools, and around each message more than
the JSON of the message has."""


def needs_counting(request: GenerationRequest, prompt: Prompt | Conversation, max_model_len: int) -> bool:
    """Whether the prompt's tokens must be counted to know that the answer fits.

    A text has at most as many tokens as bytes, so most requests need no counting.
    """
    wanted = request.sampling.max_tokens
    if wanted is None or request.truncate_prompt_tokens is not None:
        return False
    if isinstance(prompt, Conversation):
        most = len(msgspec.json.encode(conversation_fields(prompt))) + TEMPLATE_TOKENS
    elif isinstance(prompt, str):
        most = len(prompt.encode(errors="surrogatepass")) + SPECIAL_TOKENS
    else:
        most = len(prompt)
    return most + wanted > max_model_len and _is_countable(prompt, max_model_len)


async def with_count(
    error: ContextLengthError,
    request: GenerationRequest,
    prompt: Prompt | Conversation,
    max_model_len: int | None,
    count: Callable[[], Awaitable[int]],
) -> ContextLengthError:
    """The error of a prompt that vLLM refused as too long, with the number of its tokens, if they can be counted.

    vLLM stops counting at the context length.

    Args:
        error: without the number.
        request: the request.
        prompt: its prompt as the engine got it.
        max_model_len: context length in tokens, if known.
        count: counts the prompt's tokens.
    """
    if max_model_len is not None and _is_countable(prompt, max_model_len):
        with contextlib.suppress(InvalidRequestError, BackendFailedError):
            return ContextLengthError(
                max_model_len,
                param=request.param,
                prompt_tokens=await count(),
                max_tokens=request.sampling.max_tokens,
            )
    return error


def _is_countable(prompt: Prompt | Conversation, max_model_len: int) -> bool:
    characters = prompt.characters if isinstance(prompt, Conversation) else len(prompt)
    return characters <= max(MAX_COUNTED_CHARACTERS, 16 * max_model_len)
