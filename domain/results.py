"""Results of requests, complete and streamed."""

import enum

import msgspec


class EmbeddingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Embedding vectors in the order of the inputs."""

    vectors: bytes
    """float32, little endian, shape (len(inputs), dimensions), row-major; each row has unit length."""
    dimensions: int
    prompt_tokens: int
    """Total tokens of all inputs, including special tokens."""
    input_tokens: list[int] | None = None
    """Tokens of each input; None if the engine reports only the total."""

    @property
    def total_tokens(self) -> int:
        """Total tokens of all inputs."""
        return self.prompt_tokens


class ScoreResult(msgspec.Struct, frozen=True, kw_only=True):
    """Scores in the order of the pairs; a higher one means a more relevant document."""

    scores: list[float]
    """Of a reranking model usually 0 … 1; of an embedding model the cosine, -1 … 1."""
    prompt_tokens: int
    """Total tokens that the model has read, including special tokens."""

    @property
    def total_tokens(self) -> int:
        """Total tokens that the model has read."""
        return self.prompt_tokens


class FinishReason(enum.StrEnum):
    """Why a choice ended."""

    STOP = "stop"
    LENGTH = "length"


class TokenLogprob(msgspec.Struct, frozen=True):
    """Log probability of one token, and of the most likely tokens at its position."""

    token: str
    logprob: float | None
    """Natural logarithm; None for the first token of an echoed prompt, which has no preceding context."""
    top: list[tuple[str, float]] | None
    """(token, log probability) pairs, including the chosen token; None if `logprob` is None."""


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A delta of one tool call of one choice. The concatenated arguments are the call's arguments."""

    index: int
    """Index of the call in the choice, from 0."""
    id: str | None = None
    """Set, like `name`, in the first delta of a call."""
    name: str | None = None
    arguments: str = ""


class GenerationDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A delta of one choice."""

    index: int
    """Index of the choice, 0 … n - 1."""
    text: str
    reasoning: str = ""
    """Reasoning of a reasoning model, which is not part of the text."""
    tool_calls: list[ToolCallDelta] = []
    logprobs: list[TokenLogprob] | None = None
    """Of the text's tokens, in a completion also of the token that ended it. In a conversation the tokens, joined
    over all deltas, are the text; tokens of reasoning and tool calls are not included."""
    finish_reason: FinishReason | None = None
    """Set only on the last delta of a choice."""
    stop_sequence: str | None = None
    """The stop sequence of the request that ended the choice, on its last delta; None if another cause did."""

    @property
    def has_content(self) -> bool:
        """Whether any field is set; empty deltas are not sent."""
        return bool(
            self.text or self.reasoning or self.tool_calls or self.logprobs or self.finish_reason is not None
        )


class GenerationUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that a generation used; the last event of every complete stream."""

    prompt_tokens: int
    completion_tokens: int
    """Tokens of all choices, including reasoning."""
    reasoning_tokens: int | None = None
    """Reasoning tokens; None for a model without a reasoning parser."""
    cached_tokens: int | None = None
    """Prompt tokens that the engine took from its prefix cache; None if the engine does not report them."""

    @property
    def total_tokens(self) -> int:
        """Tokens of prompt and answers."""
        return self.prompt_tokens + self.completion_tokens


GenerationEvent = GenerationDelta | GenerationUsage


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """A complete generation."""

    choices: list[GenerationDelta]
    """One complete delta per choice, in order of their indices."""
    usage: GenerationUsage

    @property
    def total_tokens(self) -> int:
        """Tokens of prompt and answers."""
        return self.usage.total_tokens


class Tokenization(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the model's vocabulary."""

    token_ids: list[int]
    strings: list[str] | None = None
    """The string of each token in the vocabulary, if requested."""
