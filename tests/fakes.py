"""The one fake backend: no engine, no process, deterministic, and held to the same contract as the real ones.

Its model: a token is a character of ASCII; an embedding counts characters; a continuation is the prompt's
alphabet, rotated. Enough for everything that the port promises, and readable in a failing test.
"""

import array
import asyncio
import math
from collections.abc import AsyncGenerator
from random import Random

from domain.backend import (
    EmbeddingRequest,
    EmbeddingResult,
    FinishReason,
    GenerationDelta,
    GenerationEvent,
    GenerationRequest,
    GenerationUsage,
    ModelCard,
    Prompt,
    RequestContext,
    Role,
    TokenLogprob,
)
from domain.errors import (
    BackendUnavailableError,
    ContextLengthError,
    InferenceError,
    InvalidRequestError,
    WrongEndpointError,
)

DIMENSIONS = 8
VOCABULARY = 128
ALPHABET = "abcdefghijklmnopqrstuvwxyz "


class FakeBackend:
    """Answers at once, or after `delay_s` for each token; fails on demand."""

    def __init__(self, role: Role, *, name: str = "fake", max_model_len: int = 256, delay_s: float = 0.0) -> None:
        self.role = role
        self.name = name
        self.max_model_len = max_model_len
        self.delay_s = delay_s
        self.running = 0
        """Requests under way."""
        self.seen: list[EmbeddingRequest | GenerationRequest] = []
        self.fail_start: list[InferenceError] = []
        """Raised by `start`, one for each call, until empty."""
        self.fail_probe: InferenceError | None = None
        self.fail_next: InferenceError | None = None
        """Raised by the next request; by a generation after its first delta."""
        self.started = False
        self.stops = 0

    async def start(self) -> ModelCard:
        if self.fail_start:
            raise self.fail_start.pop(0)
        self.started = True
        return ModelCard(name=self.name, role=self.role, created=1, max_model_len=self.max_model_len)

    async def stop(self) -> None:
        self.started = False
        self.stops += 1

    async def probe(self) -> None:
        if self.fail_probe is not None:
            raise self.fail_probe

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        self._check(Role.EMBED)
        self.seen.append(request)
        self.running += 1
        try:
            rows = [self._tokens(prompt, "input") for prompt in request.inputs]
            if request.dimensions not in (None, DIMENSIONS):
                raise InvalidRequestError(
                    "Other dimensions are not supported.", param="dimensions", code="unsupported_value"
                )
            await self._fail_if_told()
            await asyncio.sleep(self.delay_s)
            vectors = b"".join(_vector(row) for row in rows)
            return EmbeddingResult(
                vectors=vectors, dimensions=DIMENSIONS, prompt_tokens=sum(len(row) for row in rows)
            )
        finally:
            self.running -= 1

    async def generate(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        self._check(Role.GENERATE)
        self.seen.append(request)
        self.running += 1
        try:
            prompt = self._tokens(request.prompt, "prompt")
            if len(prompt) >= self.max_model_len:
                raise ContextLengthError(self.max_model_len, param="prompt")
            room = self.max_model_len - len(prompt)
            total = 0
            for index in range(request.sampling.n):
                written = _continuation(request, prompt, index, room)
                total += len(written.text_tokens)
                parts = [[token] for token in written.text_tokens] or [[]]
                if not request.stream:
                    parts = [written.text_tokens]
                for position, part in enumerate(parts):
                    await asyncio.sleep(self.delay_s)
                    yield _delta(
                        request,
                        prompt if position == 0 and request.echo else [],
                        part,
                        index,
                        written.reason if position == len(parts) - 1 else None,
                    )
                    await self._fail_if_told()
            yield GenerationUsage(prompt_tokens=len(prompt), completion_tokens=total)
        finally:
            self.running -= 1

    def _check(self, role: Role) -> None:
        if role is not self.role:
            raise WrongEndpointError(f"The model '{self.name}' can't {role}.", param="model")
        if not self.started:
            raise BackendUnavailableError(f"The engine of '{self.name}' is not running.")

    async def _fail_if_told(self) -> None:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error

    def _tokens(self, prompt: Prompt, param: str) -> list[int]:
        tokens = (
            [min(ord(character), VOCABULARY - 1) for character in prompt] if isinstance(prompt, str) else prompt
        )
        if any(token >= VOCABULARY for token in tokens):
            raise InvalidRequestError(f"'{param}' holds an unknown token id.", param=param, code="invalid_value")
        if len(tokens) > self.max_model_len:
            raise ContextLengthError(self.max_model_len, param=param)
        return tokens


class _Written:
    def __init__(self, text_tokens: list[int], reason: FinishReason) -> None:
        self.text_tokens = text_tokens
        self.reason = reason


def _vector(tokens: list[int]) -> bytes:
    """float32, shape (DIMENSIONS,), unit length."""
    counts = [0.01] * DIMENSIONS
    for token in tokens:
        counts[token % DIMENSIONS] += 1.0
    length = math.sqrt(sum(count * count for count in counts))
    return array.array("f", [count / length for count in counts]).tobytes()


def _continuation(request: GenerationRequest, prompt: list[int], index: int, room: int) -> _Written:
    """What the model writes: greedy follows from the prompt alone, sampling from seed and index as well."""
    wanted = request.sampling
    if wanted.max_tokens == 0:
        return _Written([], FinishReason.LENGTH)
    random = Random(f"{wanted.seed}-{index}" if wanted.temperature != 0 and wanted.seed is not None else None)
    position = sum(prompt)
    forced = [token for token, bias in (wanted.logit_bias or {}).items() if bias >= 100]
    tokens: list[int] = []
    for _ in range(min(wanted.max_tokens, room)):
        if forced:
            tokens.append(forced[0])
        elif wanted.temperature == 0:
            tokens.append(ord(ALPHABET[(position + len(tokens)) % len(ALPHABET)]))
        else:
            tokens.append(ord(random.choice(ALPHABET)))
        text = "".join(map(chr, tokens))
        for stop in wanted.stop:
            if stop in text:
                return _Written(tokens[: text.index(stop)], FinishReason.STOP)
    return _Written(tokens, FinishReason.LENGTH)


def _delta(
    request: GenerationRequest, prompt: list[int], part: list[int], index: int, reason: FinishReason | None
) -> GenerationDelta:
    logprobs = None
    if request.sampling.logprobs is not None:
        logprobs = [_logprob(token, request.sampling.logprobs) for token in [*prompt, *part]]
        if prompt:
            logprobs[0] = TokenLogprob(chr(prompt[0]), None, None)
    text = "".join(map(chr, [*prompt, *part]))
    return GenerationDelta(index=index, text=text, logprobs=logprobs, finish_reason=reason)


def _logprob(token: int, count: int) -> TokenLogprob:
    others = [character for character in ALPHABET if character != chr(token)][: max(count - 1, 0)]
    top = [(chr(token), -0.5), *((other, -2.0) for other in others)]
    return TokenLogprob(chr(token), -0.5, top)
