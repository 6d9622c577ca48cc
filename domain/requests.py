"""Requests to an engine."""

import msgspec

from domain.conversation import Conversation
from domain.sampling import SamplingParameters

Prompt = str | list[int]
"""Text, or the ids of its tokens in the model's own vocabulary."""


MAX_EMBEDDING_TOKENS = 300_000
"""Most tokens of all inputs of one embedding request together (OpenAI's `CreateEmbeddingRequest`)."""


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Texts, or token ids, to embed: at least one."""

    inputs: list[Prompt]
    """All of one kind: texts or token ids."""
    dimensions: int | None = None
    """Length that the vectors shall have; None for the model's own."""
    truncate_prompt_tokens: int | None = None
    """Cut longer inputs to so many tokens; -1 for as many as the context holds; None refuses longer ones."""
    add_special_tokens: bool = True


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt to continue, or conversation to answer, `sampling.n` times."""

    prompt: Prompt | Conversation
    sampling: SamplingParameters
    suffix: str | None = None
    """Text that shall follow the completion, for models that were trained to fill in the middle."""
    echo: bool = False
    """Put the prompt's text (and log probabilities, where asked for) in front of each choice."""
    stream: bool = False
    """Whether the caller wants parts as they come; otherwise each choice comes as one delta at its end."""
    truncate_prompt_tokens: int | None = None
    """As in `EmbeddingRequest`: what is cut off is the beginning or the end, as the model's tokenizer has it."""
    add_special_tokens: bool | None = None
    """Whether the tokenizer adds its own; None for yes in a text and no in a conversation."""


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A text, or a conversation in the model's chat template, to count or look at."""

    prompt: str | Conversation
    add_special_tokens: bool | None = None
    """As in `GenerationRequest`."""
    with_strings: bool = False
