"""Deterministic fake backend without an engine or a process; passes the same contract tests as the real ones.

Its model: a token is an ASCII character; an embedding counts characters; a continuation is the rotated alphabet;
the score of a pair is the share of its characters that query and document have in common.
All output is reasoning unless `enable_thinking` is false, and simple structured outputs are supported. It
implements the whole port, and its output is readable in a failing test.
"""

import array
import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncGenerator
from random import Random
from typing import Any, cast

import msgspec

from domain.choices import collect
from domain.conversation import Conversation, ToolChoice
from domain.errors import (
    BackendUnavailableError,
    ContextLengthError,
    InferenceError,
    InvalidRequestError,
    TooManyTokensError,
    WrongEndpointError,
)
from domain.matryoshka import shorten
from domain.port import Events, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import (
    MAX_EMBEDDING_TOKENS,
    DetokenizeRequest,
    EmbeddingRequest,
    GenerationRequest,
    Prompt,
    Request,
    ResultT,
    ScoreRequest,
    TokenizeRequest,
)
from domain.results import (
    EmbeddingResult,
    FinishReason,
    GenerationDelta,
    GenerationEvent,
    GenerationUsage,
    ScoreResult,
    Tokenization,
    TokenLogprob,
    ToolCallDelta,
)
from domain.roles import ROLES, Role
from domain.streams import open_stream

DIMENSIONS = 8
LENGTHS = (4, 8)
VOCABULARY = 128
CACHE_BLOCK = 128
"""Tokens of a block of the prefix cache."""
ALPHABET = "abcdefghijklmnopqrstuvwxyz "


class FakeBackend:
    """Answers immediately, or after `delay_s` per token; fails on demand."""

    def __init__(self, role: Role, *, name: str = "fake", max_model_len: int = 256, delay_s: float = 0.0) -> None:
        self.role = role
        self.name = name
        self.max_model_len = max_model_len
        self.delay_s = delay_s
        self.running = 0
        """Requests in progress."""
        self.seen: list[EmbeddingRequest | GenerationRequest | ScoreRequest] = []
        self.last_context: RequestContext | None = None
        """The context of the latest call or stream."""
        self.fail_start: list[InferenceError] = []
        """Errors that `start` raises, one per call."""
        self.fail_probe: InferenceError | None = None
        self.fail_next: InferenceError | None = None
        """Raised by the next request; a generation raises it after its first delta."""
        self.started = False
        self.stops = 0
        self.reports_tokens_per_input = True
        self._cached: set[tuple[int, ...]] = set()
        self.steps: list[str] = []
        """Steps that a start reports."""

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        for step in self.steps:
            on_step(step)
        if self.fail_start:
            raise self.fail_start.pop(0)
        self.started = True
        return ModelCard(
            name=self.name,
            role=self.role,
            created=1,
            max_model_len=self.max_model_len,
            reports_tokens_per_input=self.reports_tokens_per_input,
        )

    async def stop(self) -> None:
        self.started = False
        self.stops += 1

    async def probe(self) -> None:
        if self.fail_probe is not None:
            raise self.fail_probe

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        self._check(request)
        self.last_context = context
        if isinstance(request, EmbeddingRequest):
            return cast(ResultT, await self._embed(request))
        if isinstance(request, ScoreRequest):
            return cast(ResultT, await self._score(request))
        if isinstance(request, GenerationRequest):
            return cast(ResultT, await collect(self._generate(request, streams=False)))
        if isinstance(request, TokenizeRequest):
            return cast(ResultT, await self._tokenize(request))
        assert isinstance(request, DetokenizeRequest)
        return cast(ResultT, await self._detokenize(request))

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        self._check(request)
        self.last_context = context
        async with open_stream(self._generate(request, streams=True)) as events:
            yield events

    async def _embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        self.seen.append(request)
        self.running += 1
        try:
            rows = [self._tokens(prompt, "input", request.truncate_prompt_tokens) for prompt in request.inputs]
            total = sum(map(len, rows))
            if total > MAX_EMBEDDING_TOKENS:
                raise TooManyTokensError(total, MAX_EMBEDDING_TOKENS)
            if request.dimensions is not None and request.dimensions not in LENGTHS:
                raise InvalidRequestError(
                    "Other dimensions are not supported.", param="dimensions", code="unsupported_value"
                )
            await self._raise_failure()
            await asyncio.sleep(self.delay_s)
            result = EmbeddingResult(
                vectors=b"".join(_vector(row) for row in rows),
                dimensions=DIMENSIONS,
                prompt_tokens=total,
                input_tokens=[len(row) for row in rows] if self.reports_tokens_per_input else None,
            )
            return result if request.dimensions is None else shorten(result, request.dimensions)
        finally:
            self.running -= 1

    async def _score(self, request: ScoreRequest) -> ScoreResult:
        self.seen.append(request)
        self.running += 1
        try:
            request = request.within(self.max_model_len)
            queries = request.queries * len(request.documents) if len(request.queries) == 1 else request.queries
            pairs = [
                (query[: request.max_tokens_per_query], document[: request.max_tokens_per_doc])
                for query, document in zip(queries, request.documents, strict=True)
            ]
            rows = [self._tokens("".join(pair), "documents", request.truncate_prompt_tokens) for pair in pairs]
            await self._raise_failure()
            await asyncio.sleep(self.delay_s)
            scores = [
                _common(query, "".join(map(chr, row[len(query) :])))
                for (query, _), row in zip(pairs, rows, strict=True)
            ]
            if request.use_activation is False:
                scores = [math.log((score + 0.01) / (1.01 - score)) for score in scores]
            return ScoreResult(scores=scores, prompt_tokens=sum(map(len, rows)))
        finally:
            self.running -= 1

    async def _generate(
        self, request: GenerationRequest, *, streams: bool
    ) -> AsyncGenerator[GenerationEvent, None]:
        self.seen.append(request)
        self.running += 1
        try:
            param = "messages" if isinstance(request.prompt, Conversation) else "prompt"
            prompt = self._tokens(_prompt_of(request), param, request.truncate_prompt_tokens)
            request.require_room(self.max_model_len, len(prompt))
            room = self.max_model_len - len(prompt)
            cached = self._cache(prompt)
            total = reasoning = 0
            for index in range(request.sampling.n):
                output = _continuation(request, prompt, index, room)
                total += len(output.tokens)
                parts = [[token] for token in output.tokens] or [[]]
                if not streams:
                    parts = [output.tokens]
                parser = _OutputParser(request, output.tokens)
                reasoning += len(output.tokens) if parser.thinks else 0
                for position, part in enumerate(parts):
                    await asyncio.sleep(self.delay_s)
                    delta = _delta(
                        request,
                        prompt if position == 0 and request.echo else [],
                        part,
                        index,
                        output.reason if position == len(parts) - 1 else None,
                    )
                    if delta.finish_reason is not None:
                        delta = msgspec.structs.replace(delta, stop_sequence=output.stop)
                    parsed = parser.parse(delta)
                    if parsed.has_content:
                        yield parsed
                    await self._raise_failure()
            yield GenerationUsage(
                prompt_tokens=len(prompt),
                completion_tokens=total,
                reasoning_tokens=reasoning if param == "messages" else None,
                cached_tokens=cached,
            )
        finally:
            self.running -= 1

    def _cache(self, prompt: list[int]) -> int:
        """Cache the prompt's blocks; the number of tokens that were cached. Its last token is always computed."""
        ends = range(CACHE_BLOCK, len(prompt), CACHE_BLOCK)
        found = max((end for end in ends if tuple(prompt[:end]) in self._cached), default=0)
        self._cached |= {tuple(prompt[:end]) for end in ends}
        return found

    async def _tokenize(self, request: TokenizeRequest) -> Tokenization:
        text = request.prompt if isinstance(request.prompt, str) else _template(request.prompt)
        ids = [min(ord(character), VOCABULARY - 1) for character in text]
        return Tokenization(token_ids=ids, strings=[chr(i) for i in ids] if request.with_strings else None)

    async def _detokenize(self, request: DetokenizeRequest) -> str:
        return "".join(map(chr, self._tokens(request.token_ids, "tokens", None)))

    def _check(self, request: Request[Any]) -> None:
        own = {Role.EMBED: EmbeddingRequest, Role.GENERATE: GenerationRequest, Role.RERANK: ScoreRequest}[
            self.role
        ]
        if request.needs_inference and not isinstance(request, own):
            raise WrongEndpointError(f"The model '{self.name}' can't {request.operation}.", param="model")
        if not self.started:
            raise BackendUnavailableError(f"The engine of '{self.name}' is not running.")

    async def _raise_failure(self) -> None:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error

    def _tokens(self, prompt: Prompt, param: str, truncate: int | None) -> list[int]:
        tokens = (
            [min(ord(character), VOCABULARY - 1) for character in prompt] if isinstance(prompt, str) else prompt
        )
        if any(token >= VOCABULARY for token in tokens):
            raise InvalidRequestError(
                f"'{param}' contains an unknown token id.", param=param, code="invalid_value"
            )
        if truncate is not None:
            most = self.max_model_len - ROLES[self.role].generates
            tokens = tokens[: most if truncate < 0 else truncate]
        if len(tokens) > self.max_model_len:
            raise ContextLengthError(self.max_model_len, param=param, prompt_tokens=len(tokens))
        return tokens


def _common(query: str, document: str) -> float:
    return len(set(query) & set(document)) / max(1, len(set(query) | set(document)))


class _Output:
    def __init__(self, tokens: list[int], reason: FinishReason, stop: str | None = None) -> None:
        self.tokens = tokens
        self.reason = reason
        self.stop = stop


def _prompt_of(request: GenerationRequest) -> Prompt:
    if isinstance(request.prompt, Conversation):
        return _template(request.prompt)
    if request.suffix is not None:
        return f"<{request.prompt}|{request.suffix}>"
    return request.prompt


def _template(conversation: Conversation) -> str:
    lines = [f"tool: {tool.name}" for tool in conversation.tools]
    lines += [f"{message.__struct_config__.tag}: {_text_of(message.content)}" for message in conversation.messages]
    return "\n".join([*lines, "assistant:"])


def _text_of(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content or [])


def _thinks(conversation: Conversation) -> bool:
    return bool((conversation.template_arguments or {}).get("enable_thinking", True))


class _OutputParser:
    """Splits output into text, reasoning and tool calls."""

    def __init__(self, request: GenerationRequest, tokens: list[int]) -> None:
        conversation = request.prompt if isinstance(request.prompt, Conversation) else None
        self.thinks = conversation is not None and _thinks(conversation)
        self._call: tuple[str, str] | None = None
        text = "".join(map(chr, tokens))
        if conversation is not None and conversation.tools and not self.thinks:
            if conversation.tool_choice in (ToolChoice.REQUIRED, ToolChoice.NAMED):
                self._call = conversation.tool_name or conversation.tools[0].name, text
            elif found := re.fullmatch(r"<tool_call>\s*(.*)\s*</tool_call>", text, re.S):
                call = json.loads(found[1])
                self._call = call["name"], json.dumps(call["arguments"])

    def parse(self, delta: GenerationDelta) -> GenerationDelta:
        # Log probabilities belong to the text alone.
        logprobs: list[TokenLogprob] | None = None if delta.logprobs is None else []
        if self.thinks:
            return msgspec.structs.replace(delta, text="", reasoning=delta.text, logprobs=logprobs)
        if self._call is None:
            return delta
        if delta.finish_reason is None:
            return msgspec.structs.replace(delta, text="", logprobs=logprobs)
        name, arguments = self._call
        call = ToolCallDelta(index=0, id="call_1", name=name, arguments=arguments)
        return msgspec.structs.replace(delta, text="", tool_calls=[call], logprobs=logprobs)


def _constrained_text(request: GenerationRequest) -> str | None:
    """The text of a constrained generation; None if it is unconstrained."""
    conversation = request.prompt if isinstance(request.prompt, Conversation) else None
    if conversation is not None and _thinks(conversation):
        return None
    if conversation is not None and conversation.tool_choice in (ToolChoice.REQUIRED, ToolChoice.NAMED):
        named = [tool for tool in conversation.tools if conversation.tool_name in (None, tool.name)]
        return json.dumps(_example(named[0].parameters or {}))
    outputs = request.sampling.structured_outputs
    if outputs is None:
        return None
    if outputs.choice is not None:
        return outputs.choice[0]
    if outputs.json_object:
        return "{}"
    if isinstance(outputs.json, dict):
        return json.dumps(_example(outputs.json))
    raise InvalidRequestError(
        "Only the real engines can do that.", param=request.sampling.structured_outputs_param
    )


def _example(schema: dict[str, Any]) -> Any:
    """A minimal value for a simple schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _example(properties.get(name, {})) for name in schema.get("required", [])}
    examples = {"string": "", "integer": schema.get("minimum", 0), "number": 0.0, "boolean": True, "array": []}
    if kind not in examples:
        raise InvalidRequestError(f"The type {kind!r} is unknown.", param="response_format", code="invalid_value")
    return examples[kind]


def _vector(tokens: list[int]) -> bytes:
    """float32, shape (DIMENSIONS,), unit length."""
    counts = [0.01] * DIMENSIONS
    for token in tokens:
        counts[token % DIMENSIONS] += 1.0
    length = math.sqrt(sum(count * count for count in counts))
    return array.array("f", [count / length for count in counts]).tobytes()


def _continuation(request: GenerationRequest, prompt: list[int], index: int, room: int) -> _Output:
    """The model's output: greedy output depends on the prompt alone, sampled output also on seed and index."""
    sampling = request.sampling
    if sampling.max_tokens == 0:
        return _Output([], FinishReason.LENGTH)
    random = Random(
        f"{sampling.seed}-{index}" if sampling.temperature != 0 and sampling.seed is not None else None
    )
    position = sum(prompt)
    text = _constrained_text(request)
    if text is not None:
        return _truncated(text, room if sampling.max_tokens is None else min(sampling.max_tokens, room))
    forced = [token for token, bias in (sampling.logit_bias or {}).items() if bias >= 100]
    tokens: list[int] = []
    for _ in range(room if sampling.max_tokens is None else min(sampling.max_tokens, room)):
        if forced:
            tokens.append(forced[0])
        elif sampling.temperature == 0:
            tokens.append(ord(ALPHABET[(position + len(tokens)) % len(ALPHABET)]))
        else:
            tokens.append(ord(random.choice(ALPHABET)))
        text = "".join(map(chr, tokens))
        for stop in sampling.stop:
            if stop in text:
                return _Output(tokens[: text.index(stop)], FinishReason.STOP, stop)
    return _Output(tokens, FinishReason.LENGTH)


def _truncated(text: str, room: int) -> _Output:
    tokens = [min(ord(character), VOCABULARY - 1) for character in text]
    return _Output(tokens[:room], FinishReason.STOP if len(tokens) <= room else FinishReason.LENGTH)


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
