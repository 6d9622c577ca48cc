"""The port: what the service asks of an engine, whatever the engine is and wherever it runs.

Everything here speaks of inference, not of HTTP. An adapter implements `InferenceBackend` once; a policy
wraps one and is one. `tests/contract` holds every implementation to the sentences below.
"""

import enum
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Protocol

import msgspec

from domain.conversation import Conversation
from domain.observation import Observer
from domain.sampling import SamplingParameters


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
    tells_input_tokens: bool = False
    """Whether embeddings come with the tokens of each input, and not only with their sum."""


class RequestContext(msgspec.Struct, frozen=True, kw_only=True):
    """What travels with a request besides its content."""

    request_id: str
    timeout_s: float | None = None
    """Seconds that the client gives the request; None leaves it to the service."""
    trace: Mapping[str, str] | None = None
    """Headers that carry the trace on to the engine (W3C Trace Context); None if nobody traces the request."""
    observer: Observer | None = None
    """Told of what happens to the request; None if nobody watches."""


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


class EmbeddingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors in the order of the inputs."""

    vectors: bytes
    """float32, little endian, shape (len(inputs), dimensions), row by row; each row of unit length."""
    dimensions: int
    prompt_tokens: int
    """Tokens of all inputs together, special tokens included."""
    input_tokens: list[int] | None = None
    """Tokens of each input; None where the engine tells only the sum."""


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


GenerationEvent = GenerationDelta | GenerationUsage


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A text, or a conversation in the model's chat template, to count or look at."""

    prompt: str | Conversation
    add_special_tokens: bool | None = None
    """As in `GenerationRequest`."""
    with_strings: bool = False


class Tokenization(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens in the model's own vocabulary."""

    token_ids: list[int]
    strings: list[str] | None = None
    """What each stands for, as the vocabulary writes it, if asked for."""


StepListener = Callable[[str], None]
"""Told in a few words what a start is doing now, such as "loading the model"."""


def nobody(_step: str) -> None:
    """The listener of a start that nobody watches."""


class InferenceBackend(Protocol):
    """One engine in one role.

    Errors: every method raises subclasses of `domain.errors.InferenceError` and nothing else, save
    `asyncio.CancelledError`, which passes through. A method that the role has no use for raises
    `WrongEndpointError`.

    Cancellation: when the awaiting task is cancelled, or the iterator of `generate` closed, the work in the
    engine ends too.
    """

    async def start(self, on_step: StepListener = nobody) -> ModelCard:
        """Bring the engine up and return its card once it can take requests.

        Args:
            on_step: told what takes its time, on the event loop.

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
        """Vectors for all inputs, in their order, or an error and no vectors at all.

        Raises:
            TooManyTokensError: more than MAX_EMBEDDING_TOKENS.
        """
        ...

    def generate(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Deltas of all choices as they come, then exactly one `GenerationUsage`.

        Deltas of one choice come in order and each says something; joined they are its text, and exactly one
        of them, the last, has a finish reason. A failure raises from the iterator and no usage follows.
        """
        ...

    async def tokenize(self, request: TokenizeRequest, context: RequestContext) -> Tokenization:
        """The tokens of a prompt, however long it is."""
        ...

    async def detokenize(self, token_ids: list[int], context: RequestContext) -> str:
        """The text of tokens."""
        ...
