"""Requests to an engine: what is asked, typed by what the answer is.

A policy knows of a request only what `Request` says. A new operation is a new class here and its result in
`domain/results.py`; no policy changes for it.
"""

from typing import ClassVar, Generic, TypeVar

import msgspec

from domain.conversation import Conversation
from domain.results import EmbeddingResult, GenerationResult, Tokenization
from domain.sampling import SamplingParameters

ResultT = TypeVar("ResultT", covariant=True)

Prompt = str | list[int]
"""Text, or the ids of its tokens in the model's own vocabulary."""

CHARACTERS_PER_TOKEN = 4
"""Of usual English. Estimates are made before anything is tokenized."""
OPEN_ENDED_ANSWER_TOKENS = 256
"""Estimated for an answer that the request does not bound."""
MAX_EMBEDDING_TOKENS = 300_000
"""Most tokens of all inputs of one embedding request together (OpenAI's `CreateEmbeddingRequest`)."""


class Request(msgspec.Struct, Generic[ResultT], frozen=True, kw_only=True):
    """What all requests have: the type of their result, and what they cost."""

    operation: ClassVar[str]
    """What the engine is asked to do, as a verb."""
    needs_inference: ClassVar[bool] = True
    """Whether the engine computes anything for it; what needs none waits for no place and costs no tokens."""

    @property
    def estimated_prompt_tokens(self) -> int:
        """Tokens of all inputs, estimated."""
        return 0

    @property
    def max_answer_tokens(self) -> int | None:
        """Most tokens of all answers together; None if only the context bounds them."""
        return 0

    @property
    def width(self) -> int:
        """How many sequences the engine computes for it: inputs to embed, or choices to write."""
        return 1

    @property
    def estimated_tokens(self) -> int:
        """Tokens of prompts and answers, estimated."""
        answer = self.max_answer_tokens
        return self.estimated_prompt_tokens + (OPEN_ENDED_ANSWER_TOKENS * self.width if answer is None else answer)


class EmbeddingRequest(Request[EmbeddingResult], frozen=True, kw_only=True):
    """Texts, or token ids, to embed: at least one.

    Raises, when called, `TooManyTokensError` for more than MAX_EMBEDDING_TOKENS.
    """

    operation: ClassVar[str] = "embed"

    inputs: list[Prompt]
    """All of one kind: texts or token ids."""
    dimensions: int | None = None
    """Length of the vectors; None for the model's own."""
    truncate_prompt_tokens: int | None = None
    """Cut longer inputs to so many tokens; -1 for as many as the context holds; None refuses longer ones."""
    add_special_tokens: bool = True

    @property
    def estimated_prompt_tokens(self) -> int:
        """See `Request`."""
        return sum(map(estimate_tokens, self.inputs))

    @property
    def width(self) -> int:
        """See `Request`."""
        return len(self.inputs)


class GenerationRequest(Request[GenerationResult], frozen=True, kw_only=True):
    """One prompt to continue, or conversation to answer, `sampling.n` times. Can be called or streamed."""

    operation: ClassVar[str] = "generate"

    prompt: Prompt | Conversation
    sampling: SamplingParameters
    suffix: str | None = None
    """Text that follows the completion, for models that were trained to fill in the middle."""
    echo: bool = False
    """Put the prompt's text (and log probabilities, where asked for) in front of each choice."""
    truncate_prompt_tokens: int | None = None
    """As in `EmbeddingRequest`: whether the beginning or the end is cut off depends on the model's tokenizer."""
    add_special_tokens: bool | None = None
    """Whether the tokenizer adds its own; None for yes in a text and no in a conversation."""

    @property
    def estimated_prompt_tokens(self) -> int:
        """See `Request`."""
        prompt = self.prompt
        if isinstance(prompt, Conversation):
            return prompt.characters // CHARACTERS_PER_TOKEN
        return estimate_tokens(prompt)

    @property
    def max_answer_tokens(self) -> int | None:
        """See `Request`."""
        limit = self.sampling.max_tokens
        return None if limit is None else limit * self.sampling.n

    @property
    def width(self) -> int:
        """See `Request`."""
        return self.sampling.n


class TokenizeRequest(Request[Tokenization], frozen=True, kw_only=True):
    """A text, or a conversation in the model's chat template, to count or look at, however long it is."""

    operation: ClassVar[str] = "tokenize"
    needs_inference: ClassVar[bool] = False

    prompt: str | Conversation
    add_special_tokens: bool | None = None
    """As in `GenerationRequest`."""
    with_strings: bool = False


class DetokenizeRequest(Request[str], frozen=True, kw_only=True):
    """Token ids of the model's own vocabulary to turn into text."""

    operation: ClassVar[str] = "detokenize"
    needs_inference: ClassVar[bool] = False

    token_ids: list[int]


def estimate_tokens(prompt: Prompt) -> int:
    """Tokens of a prompt, estimated for a text and exact for token ids."""
    return len(prompt) // CHARACTERS_PER_TOKEN + 1 if isinstance(prompt, str) else len(prompt)
