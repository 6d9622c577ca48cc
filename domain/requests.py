"""Requests to an engine, typed by their results.

Policies use only the interface of `Request`. A new operation needs a new class here and its result in
`domain/results.py`; no policy changes.
"""

import math
from typing import ClassVar, Generic, TypeVar

import msgspec

from domain.conversation import Conversation
from domain.errors import ContextLengthError
from domain.results import EmbeddingResult, GenerationResult, ScoreResult, Tokenization
from domain.sampling import SamplingParameters

ResultT = TypeVar("ResultT", covariant=True)

Prompt = str | list[int]
"""Text, or its token ids in the model's vocabulary."""

CHARACTERS_PER_TOKEN = 4
"""Average of English text, for estimates before tokenization."""
OPEN_ENDED_ANSWER_TOKENS = 256
"""Estimate for an answer without a limit on its tokens."""
MAX_EMBEDDING_TOKENS = 300_000
"""Maximum total tokens of the inputs of one embedding request (OpenAI's `CreateEmbeddingRequest`)."""


class Request(msgspec.Struct, Generic[ResultT], frozen=True, kw_only=True):
    """Base of all requests: their operation, result type and cost."""

    operation: ClassVar[str]
    """Name of the operation, a verb."""
    needs_inference: ClassVar[bool] = True
    """Whether the engine computes anything; other requests need no admission and cost no tokens."""

    @property
    def estimated_prompt_tokens(self) -> int:
        """Estimated tokens of all inputs."""
        return 0

    @property
    def max_answer_tokens(self) -> int | None:
        """Maximum total tokens of all answers; None if limited only by the context length."""
        return 0

    @property
    def width(self) -> int:
        """Number of sequences that the engine computes: inputs to embed, or choices to generate."""
        return 1

    @property
    def estimated_tokens(self) -> int:
        """Estimated tokens of prompts and answers."""
        answer = self.max_answer_tokens
        return self.estimated_prompt_tokens + (OPEN_ENDED_ANSWER_TOKENS * self.width if answer is None else answer)


class EmbeddingRequest(Request[EmbeddingResult], frozen=True, kw_only=True):
    """One or more inputs to embed, as texts or token ids.

    The call raises `TooManyTokensError` for more than MAX_EMBEDDING_TOKENS.
    """

    operation: ClassVar[str] = "embed"

    inputs: list[Prompt]
    """All of one type: texts or token ids."""
    dimensions: int | None = None
    """Length of the vectors; None for the model's own."""
    truncate_prompt_tokens: int | None = None
    """Maximum tokens of an input, longer ones are truncated; -1 for the context length; None rejects inputs that
    exceed the context length."""
    add_special_tokens: bool = True

    @property
    def estimated_prompt_tokens(self) -> int:
        """See `Request`."""
        return sum(map(estimate_tokens, self.inputs))

    @property
    def width(self) -> int:
        """See `Request`."""
        return len(self.inputs)


class ScoreRequest(Request[ScoreResult], frozen=True, kw_only=True):
    """Pairs of a query and a document to score by the document's relevance."""

    operation: ClassVar[str] = "rerank"

    queries: list[str]
    """One query for all documents, or as many queries as documents."""
    documents: list[str]
    truncate_prompt_tokens: int | None = None
    """As in `EmbeddingRequest`, for each pair."""
    max_tokens_per_query: int | None = None
    """Longer queries are truncated to this number of tokens, without special ones; None truncates none."""
    max_tokens_per_doc: int | None = None
    """The same for documents."""
    instruction: str | None = None
    """What makes a document relevant, for models that take an instruction; others ignore it."""
    use_activation: bool | None = None
    """Whether the model's activation function maps scores to 0 … 1; None for the model's own choice."""

    @property
    def estimated_prompt_tokens(self) -> int:
        """See `Request`."""
        queries = [_estimate_cut(query, self.max_tokens_per_query) for query in self.queries]
        # A single query is repeated for each document.
        pairs = zip(self.documents, queries * self.width if len(queries) == 1 else queries, strict=True)
        whole = self.truncate_prompt_tokens
        most = math.inf if whole is None or whole < 0 else whole
        return int(
            sum(min(most, _estimate_cut(document, self.max_tokens_per_doc) + query) for document, query in pairs)
        )

    @property
    def width(self) -> int:
        """See `Request`."""
        return len(self.documents)

    def pairs(self, start: int, stop: int) -> "ScoreRequest":
        """The same request for some of the pairs."""
        queries = self.queries if len(self.queries) == 1 else self.queries[start:stop]
        return msgspec.structs.replace(self, queries=queries, documents=self.documents[start:stop])

    def within(self, max_model_len: int | None) -> "ScoreRequest":
        """The same request without limits that no text of this context length can exceed, which vLLM rejects."""

        def effective(limit: int | None) -> int | None:
            return None if limit is None or (max_model_len is not None and limit >= max_model_len) else limit

        return msgspec.structs.replace(
            self,
            max_tokens_per_query=effective(self.max_tokens_per_query),
            max_tokens_per_doc=effective(self.max_tokens_per_doc),
        )


class GenerationRequest(Request[GenerationResult], frozen=True, kw_only=True):
    """One prompt to continue or conversation to answer, `sampling.n` times. Can be called or streamed."""

    operation: ClassVar[str] = "generate"

    prompt: Prompt | Conversation
    sampling: SamplingParameters
    suffix: str | None = None
    """Text that follows the completion, for models that were trained to fill in the middle."""
    echo: bool = False
    """Whether to prepend the prompt's text (and log probabilities, if requested) to each choice."""
    truncate_prompt_tokens: int | None = None
    """As in `EmbeddingRequest`. The model's tokenizer decides whether the beginning or the end is cut off."""
    add_special_tokens: bool | None = None
    """Whether the tokenizer adds special tokens; None for yes in a text and no in a conversation."""

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
        return None if limit is None else limit * self.width

    @property
    def width(self) -> int:
        """See `Request`. Greedy choices are identical, so only one is computed."""
        return 1 if self.sampling.temperature == 0 else self.sampling.n

    def require_room(self, max_model_len: int, prompt_tokens: int | None = None) -> None:
        """Raise ContextLengthError if prompt and answer do not fit into the context.

        A request with `truncate_prompt_tokens` asks for a prompt that fits, so its answer may be shortened.

        Args:
            max_model_len: context length in tokens.
            prompt_tokens: tokens of the prompt; None if they are not known yet.
        """
        wanted = 1 if self.truncate_prompt_tokens is not None else self.sampling.max_tokens or 1
        if (1 if prompt_tokens is None else prompt_tokens) + wanted > max_model_len:
            raise ContextLengthError(
                max_model_len, param=self.param, prompt_tokens=prompt_tokens, max_tokens=wanted
            )

    @property
    def param(self) -> str:
        """The client's field that carries the prompt."""
        return "messages" if isinstance(self.prompt, Conversation) else "prompt"


class TokenizeRequest(Request[Tokenization], frozen=True, kw_only=True):
    """A text, or a conversation rendered by the model's chat template, to tokenize; of any length."""

    operation: ClassVar[str] = "tokenize"
    needs_inference: ClassVar[bool] = False

    prompt: str | Conversation
    add_special_tokens: bool | None = None
    """As in `GenerationRequest`."""
    with_strings: bool = False


class DetokenizeRequest(Request[str], frozen=True, kw_only=True):
    """Token ids of the model's vocabulary to convert to text."""

    operation: ClassVar[str] = "detokenize"
    needs_inference: ClassVar[bool] = False

    token_ids: list[int]


def estimate_tokens(prompt: Prompt) -> int:
    """Number of tokens of a prompt: estimated for a text, exact for token ids."""
    return len(prompt) // CHARACTERS_PER_TOKEN + 1 if isinstance(prompt, str) else len(prompt)


def _estimate_cut(text: str, max_tokens: int | None) -> int:
    """Estimated tokens of a text of which the engine reads so many at most."""
    tokens = estimate_tokens(text)
    return tokens if max_tokens is None else min(tokens, max_tokens)
