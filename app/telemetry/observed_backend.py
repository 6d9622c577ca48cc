"""The wrapper that tells a request's observation of each call of an engine."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from app.telemetry.record import CANCELLED, OperationRecord
from app.telemetry.request import Operation, RequestObservation, type_of
from app.telemetry.request_attributes import answer_attributes, embedding_attributes, generation_attributes
from domain.conversation import Conversation
from domain.errors import InferenceError
from domain.policies.wrapper import BackendWrapper
from domain.port import InferenceBackend, ModelCard, RequestContext, StepListener, ignore_step
from domain.requests import EmbeddingRequest, GenerationRequest
from domain.results import EmbeddingResult, GenerationDelta, GenerationEvent, GenerationUsage
from domain.roles import Role

UNKNOWN_MODEL = "unknown"


class ObservedBackend(BackendWrapper):
    """Passes everything through; calls whose request is observed are told of."""

    def __init__(
        self, backend: InferenceBackend, role: Role, *, model: str | None, captures_content: bool = False
    ) -> None:
        """Make the wrapper.

        Args:
            backend: the backend inside.
            role: what it is for.
            model: its model's name; None until the engine has told it.
            captures_content: whether spans shall hold prompts and answers.
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

    async def embed(self, request: EmbeddingRequest, context: RequestContext) -> EmbeddingResult:
        """See the port."""
        observer = context.observer
        if not isinstance(observer, RequestObservation):
            return await self._backend.embed(request, context)
        attributes = embedding_attributes(request) if observer.is_traced else {}
        operation = observer.begin(self._record("embeddings"), attributes)
        try:
            result = await self._backend.embed(request, operation.context(context))
        except BaseException as error:
            operation.end(_error_type(error))
            raise
        operation.record.prompt_tokens = result.prompt_tokens
        operation.end()
        return result

    def generate(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See the port."""
        if not isinstance(context.observer, RequestObservation):
            # Not one generator more for each token of a request that nobody watches.
            return self._backend.generate(request, context)
        return self._observed(request, context, context.observer)

    async def _observed(
        self, request: GenerationRequest, context: RequestContext, observer: RequestObservation
    ) -> AsyncGenerator[GenerationEvent, None]:
        name = "chat" if isinstance(request.prompt, Conversation) else "text_completion"
        captures = self._captures_content and observer.is_traced
        attributes = generation_attributes(request, content=captures) if observer.is_traced else {}
        operation = observer.begin(self._record(name, is_stream=request.stream), attributes)
        kept: list[GenerationDelta] = []
        try:
            async with contextlib.aclosing(self._backend.generate(request, operation.context(context))) as events:
                async for event in events:
                    _note(operation, event, is_stream=request.stream)
                    if captures and isinstance(event, GenerationDelta):
                        kept.append(event)
                    yield event
        except BaseException as error:
            operation.end(_error_type(error), attributes=answer_attributes(kept) if captures else None)
            raise
        operation.end(attributes=answer_attributes(kept) if captures else None)

    def _record(self, name: str, *, is_stream: bool = False) -> OperationRecord:
        return OperationRecord(name=name, role=self._role, model=self._model, is_stream=is_stream)


def _note(operation: Operation, event: GenerationEvent, *, is_stream: bool) -> None:
    if isinstance(event, GenerationUsage):
        operation.record.prompt_tokens = event.prompt_tokens
        operation.record.completion_tokens = event.completion_tokens
        return
    if is_stream and operation.is_silent:
        operation.first_token()
    if event.finish_reason is not None:
        operation.finished(event.index, event.finish_reason)


def _error_type(error: BaseException) -> str:
    if isinstance(error, InferenceError):
        return type_of(error)
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return CANCELLED
    return type(error).__name__
