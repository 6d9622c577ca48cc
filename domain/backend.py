"""The port: what the service asks of an engine, whatever the engine is and wherever it runs.

Everything here speaks of inference, not of HTTP. An adapter implements `InferenceBackend` once; a policy
wraps one and is one. `tests/contract` holds every implementation to the sentences below.
"""

import enum
from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec


class Role(enum.StrEnum):
    """What an engine is there for."""

    EMBED = "embed"
    GENERATE = "generate"


Prompt = str | list[int]
"""Text, or the ids of its tokens in the model's own vocabulary."""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model once its engine serves."""

    name: str
    """The id that clients use."""
    role: Role
    created: int
    """Unix time in seconds at which the engine became known."""
    max_model_len: int | None = None
    """Context length in tokens, prompt and completion together."""
    dimensions: int | None = None
    """Length of one embedding vector; None for a generator."""


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """What travels with a request besides its content."""

    request_id: str


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Texts, or token ids, to embed: at least one."""

    inputs: list[Prompt]
    """All of one kind: texts or token ids."""
    dimensions: int | None = None
    """Length that the vectors shall have; None for the model's own."""


class EmbeddingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors in the order of the inputs."""

    vectors: bytes
    """float32, little endian, shape (len(inputs), dimensions), row by row; each row of unit length."""
    dimensions: int
    prompt_tokens: int
    """Tokens of all inputs together, special tokens included."""


class SamplingParameters(msgspec.Struct, frozen=True, kw_only=True):
    """How to sample. None leaves a parameter to the model's own generation configuration.

    Names, ranges and meaning are OpenAI's (`CreateCompletionRequest`).
    """

    max_tokens: int = 16
    """Most tokens for each choice. 0 is for `echo` alone: the prompt and nothing more."""
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] = []
    seed: int | None = None
    logprobs: int | None = None
    """Number of most likely tokens to tell for each position; None tells no log probabilities at all."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    """Token id → bias in -100 … 100."""


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt to continue, `sampling.n` times."""

    prompt: Prompt
    sampling: SamplingParameters
    echo: bool = False
    """Put the prompt's text (and log probabilities, where asked for) in front of each choice."""
    stream: bool = False
    """Whether the caller wants parts as they come; otherwise each choice comes as one delta at its end."""


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


class GenerationDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one choice gained since its last delta."""

    index: int
    """Which choice, 0 … n - 1."""
    text: str
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    """Set on the last delta of a choice, and only there."""


class GenerationUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that a generation took; the last item of every complete stream."""

    prompt_tokens: int
    completion_tokens: int
    """All choices together."""


GenerationEvent = GenerationDelta | GenerationUsage


class InferenceBackend(Protocol):
    """One engine in one role.

    Errors: every method raises subclasses of `domain.errors.InferenceError` and nothing else, save
    `asyncio.CancelledError`, which passes through. A method that the role has no use for raises
    `WrongEndpointError`.

    Cancellation: when the awaiting task is cancelled, or the iterator of `generate` closed, the work in the
    engine ends too.
    """

    async def start(self) -> ModelCard:
        """Bring the engine up and return its card once it can take requests.

        Raises:
            BackendUnavailableError: it can't be reached yet; calling again later may help.
            BackendFailedError: it can't start; the message says why.
        """
        ...

    async def stop(self) -> None:
        """End everything that `start` began, processes included. Safe at any time, and more than once."""
        ...

    async def probe(self) -> None:
        """Return if the engine is alive, raise if it is not. Costs the engine no inference."""
        ...

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        """Vectors for all inputs, in their order, or an error and no vectors at all."""
        ...

    def generate(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Deltas of all choices as they come, then exactly one `GenerationUsage`.

        Deltas of one choice come in order, joined they are its text, and exactly one of them, the last,
        has a finish reason. A failure raises from the iterator and no usage follows.
        """
        ...
