"""Results of requests, whole and in parts."""

import enum

import msgspec


class EmbeddingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors in the order of the inputs."""

    vectors: bytes
    """float32, little endian, shape (len(inputs), dimensions), row by row; each row of unit length."""
    dimensions: int
    prompt_tokens: int
    """Tokens of all inputs together, special tokens included."""
    input_tokens: list[int] | None = None
    """Tokens of each input; None where the engine tells only the sum."""

    @property
    def total_tokens(self) -> int:
        """Tokens of all inputs together."""
        return self.prompt_tokens


class FinishReason(enum.StrEnum):
    """Why a choice ended."""

    STOP = "stop"
    LENGTH = "length"


class TokenLogprob(msgspec.Struct, frozen=True):
    """Log probability of one token, and of the likeliest ones in its place."""

    token: str
    logprob: float | None
    """Natural logarithm; None for the first token of an echoed prompt, which follows from nothing."""
    top: list[tuple[str, float]] | None
    """(token, log probability) pairs, the chosen one among them; None where `logprob` is."""


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one tool call of one choice gained. Arguments joined are the call's arguments."""

    index: int
    """Which call of the choice, 0 …"""
    id: str | None = None
    """Set, with `name`, in the first delta of a call."""
    name: str | None = None
    arguments: str = ""


class GenerationDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one choice gained since its last delta."""

    index: int
    """Which choice, 0 … n - 1."""
    text: str
    reasoning: str = ""
    """What a reasoning model thought, which is not part of the text."""
    tool_calls: list[ToolCallDelta] = []
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    """Set on the last delta of a choice, and only there."""

    @property
    def says_something(self) -> bool:
        """Whether there is anything in it; what says nothing is not told."""
        return bool(
            self.text or self.reasoning or self.tool_calls or self.logprobs or self.finish_reason is not None
        )


class GenerationUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that a generation took; the last item of every complete stream."""

    prompt_tokens: int
    completion_tokens: int
    """All choices together, reasoning included."""
    reasoning_tokens: int | None = None
    """Those that were reasoning; None for a model that is not known to reason."""

    @property
    def total_tokens(self) -> int:
        """Tokens of prompt and answers."""
        return self.prompt_tokens + self.completion_tokens


GenerationEvent = GenerationDelta | GenerationUsage


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole generation."""

    choices: list[GenerationDelta]
    """Each choice once, with all that it gained, in order of their indices."""
    usage: GenerationUsage

    @property
    def total_tokens(self) -> int:
        """Tokens of prompt and answers."""
        return self.usage.total_tokens


class Tokenization(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens in the model's own vocabulary."""

    token_ids: list[int]
    strings: list[str] | None = None
    """What each stands for, as the vocabulary writes it, if asked for."""
