"""Wraps a backend and records each engine call in its request's observation."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from app.telemetry.record import CANCELLED, OperationRecord
from app.telemetry.request import Operation, RequestObservation, type_of
from app.telemetry.request_attributes import (
    answer_attributes,
    embedding_attributes,
    generation_attributes,
    score_attributes,
)
from domain.conversation import Conversation
from domain.errors import InferenceError
from domain.policies.wrapper import BackendWrapper
from domain.port import Events, InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import EmbeddingRequest, GenerationRequest, Request, ResultT, ScoreRequest
from domain.results import (
    EmbeddingResult,
    GenerationDelta,
    GenerationEvent,
    GenerationResult,
    GenerationUsage,
    ScoreResult,
)
from domain.roles import Role

UNKNOWN_MODEL = "unknown"


class ObservedBackend(BackendWrapper):
    """Records the calls of observed requests, and passes everything through."""

    def __init__(
        self, backend: InferenceBackend, role: Role, *, model: str | None, captures_content: bool = False
    ) -> None:
        """Wrap a backend.

        Args:
            backend: the wrapped backend.
            role: its role.
            model: its model's name; None if only the engine knows it.
            captures_content: whether spans contain prompts and answers.
        """
        super().__init__(backend)
        self._role = role
        self._model = model or UNKNOWN_MODEL
        self._captures_content = captures_content

    async def start(self, on_step: StepListener = ignore_step) -> ModelCard:
        """See the port."""
        card = await self._backend.start(on_step)
        self._model = card.name
        return card

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        """See the port."""
        observer = context.observer
        if not isinstance(observer, RequestObservation) or not request.needs_inference:
            return await self._backend.call(request, context)
        operation = self._begin(observer, request, is_stream=False)
        try:
            result = await self._backend.call(request, operation.context(context))
        except BaseException as error:
            operation.end(_error_type(error))
            raise
        operation.end(attributes=self._record_result(operation, result, observer))
        return result

    @contextlib.asynccontextmanager
    async def stream(self, request: GenerationRequest, context: RequestContext) -> AsyncGenerator[Events, None]:
        """See the port."""
        observer = context.observer
        if not isinstance(observer, RequestObservation):
            # Requests that are not observed don't pay for another generator per token.
            async with self._backend.stream(request, context) as events:
                yield events
            return
        operation = self._begin(observer, request, is_stream=True)
        captured: list[GenerationDelta] | None = [] if self._captures(observer) else None
        try:
            async with self._backend.stream(request, operation.context(context)) as events:
                operation.first_token()
                async with contextlib.aclosing(_recorded(events, operation, captured)) as recorded:
                    yield recorded
        except BaseException as error:
            operation.end(_error_type(error), attributes=_content(captured))
            raise
        # A consumer may stop reading without an error.
        operation.end(None if operation.is_complete else CANCELLED, attributes=_content(captured))

    def _begin(self, observer: RequestObservation, request: Request[Any], *, is_stream: bool) -> Operation:
        record = OperationRecord(name=_name(request), role=self._role, model=self._model, is_stream=is_stream)
        return observer.begin(record, self._attributes(request, is_stream) if observer.is_traced else {})

    def _attributes(self, request: Request[Any], is_stream: bool) -> Mapping[str, object]:
        if isinstance(request, EmbeddingRequest):
            return embedding_attributes(request)
        if isinstance(request, ScoreRequest):
            return score_attributes(request)
        if isinstance(request, GenerationRequest):
            return generation_attributes(request, is_stream=is_stream, content=self._captures_content)
        return {}

    def _record_result(
        self, operation: Operation, result: object, observer: RequestObservation
    ) -> Mapping[str, object] | None:
        if isinstance(result, EmbeddingResult | ScoreResult):
            operation.record.prompt_tokens = result.prompt_tokens
        if not isinstance(result, GenerationResult):
            return None
        operation.set_usage(result.usage)
        for choice in result.choices:
            if choice.finish_reason is not None:
                operation.finished(choice.index, choice.finish_reason)
        return _content(result.choices if self._captures(observer) else None)

    def _captures(self, observer: RequestObservation) -> bool:
        return self._captures_content and observer.is_traced


async def _recorded(
    events: Events, operation: Operation, captured: list[GenerationDelta] | None
) -> AsyncGenerator[GenerationEvent, None]:
    """Yield the events, recording each in the operation."""
    async for event in events:
        if isinstance(event, GenerationUsage):
            operation.set_usage(event)
        else:
            if event.finish_reason is not None:
                operation.finished(event.index, event.finish_reason)
            if captured is not None:
                captured.append(event)
        yield event


def _content(deltas: list[GenerationDelta] | None) -> Mapping[str, object] | None:
    """Span attributes with an answer's content; None if content is not captured."""
    return answer_attributes(deltas) if deltas is not None else None


def _name(request: Request[Any]) -> str:
    """The operation's name in OpenTelemetry's GenAI conventions."""
    if isinstance(request, GenerationRequest):
        return "chat" if isinstance(request.prompt, Conversation) else "text_completion"
    return "embeddings" if isinstance(request, EmbeddingRequest) else request.operation


def _error_type(error: BaseException) -> str:
    if isinstance(error, InferenceError):
        return type_of(error)
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return CANCELLED
    return type(error).__name__
