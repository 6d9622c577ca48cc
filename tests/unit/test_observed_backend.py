"""The wrapper that records calls: it changes nothing, and is bypassed without an observation."""

import asyncio
import contextlib

import pytest

from app.telemetry.observed_backend import ObservedBackend
from app.telemetry.record import OperationRecord
from app.telemetry.request import RequestObservation
from domain.errors import BackendFailedError
from domain.port import RequestContext
from domain.requests import EmbeddingRequest, GenerationRequest, TokenizeRequest
from domain.results import FinishReason, GenerationUsage
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.calls import events_of, stream
from tests.fakes import FakeBackend
from tests.unit.observed import RecordingListener

TEXTS = EmbeddingRequest(inputs=["a", "bb"])
PROMPT = GenerationRequest(prompt="abc", sampling=SamplingParameters(temperature=0.0, max_tokens=4))


class ObservedFake:
    """A wrapped fake, and the context of an observed request."""

    def __init__(self, role: Role, *, model: str | None = "the-model") -> None:
        self.engine = FakeBackend(role, name="the-engine")
        self.backend = ObservedBackend(self.engine, role, model=model)
        self.listener = RecordingListener()
        scope = {"type": "http", "method": "POST", "path": "/", "state": {}}
        self.observation = RequestObservation(scope, "id", [self.listener], None)
        self.context = RequestContext(request_id="id", timeout_s=5, observer=self.observation)
        self.contexts: list[RequestContext] = []
        for method in ("call", "stream"):
            setattr(self.engine, method, self._kept(getattr(self.engine, method)))

    def _kept(self, method):
        def call(request, context):
            self.contexts.append(context)
            return method(request, context)

        return call


@pytest.fixture
async def embedder() -> ObservedFake:
    made = ObservedFake(Role.EMBED)
    await made.backend.start()
    return made


@pytest.fixture
async def writer() -> ObservedFake:
    made = ObservedFake(Role.GENERATE)
    await made.backend.start()
    return made


async def test_answers_are_passed_through(embedder, writer):
    plain = RequestContext(request_id="id")
    assert await embedder.backend.call(TEXTS, embedder.context) == await embedder.engine.call(TEXTS, plain)
    assert await writer.backend.call(PROMPT, writer.context) == await writer.engine.call(PROMPT, plain)
    found = await events_of(writer.backend, PROMPT, writer.context)
    assert found == await events_of(writer.engine, PROMPT, plain)
    assert isinstance(found[-1], GenerationUsage)


async def test_the_model_name_is_the_engines_once_known():
    made = ObservedFake(Role.EMBED, model=None)
    made.engine.started = True
    await made.backend.call(TEXTS, made.context)
    await made.backend.start()
    await made.backend.call(TEXTS, made.context)
    assert [operation.model for operation in made.listener.operations] == ["unknown", "the-engine"]


async def test_the_rest_of_the_context_is_passed_on(embedder):
    await embedder.backend.call(TEXTS, embedder.context)
    (context,) = embedder.contexts
    assert (context.request_id, context.timeout_s, context.trace) == ("id", 5, None)
    assert context.observer not in (None, embedder.observation)


async def test_a_request_without_an_observer_goes_straight_to_the_engine(writer, embedder):
    plain = RequestContext(request_id="id")
    inner = object()

    @contextlib.asynccontextmanager
    async def engine_stream(_request, context):
        assert context is plain
        yield inner

    writer.engine.stream = engine_stream
    async with writer.backend.stream(PROMPT, plain) as events:
        # The engine's own iterator, not wrapped in another one, which would cost time per token.
        assert events is inner
    await embedder.backend.call(TEXTS, plain)
    assert embedder.contexts == [plain]
    assert embedder.listener.operations == []


async def test_an_embedding_is_recorded(embedder):
    embedder.engine.delay_s = 0.005
    await embedder.backend.call(TEXTS, embedder.context)
    operation = embedder.listener.operation
    assert (operation.name, operation.role, operation.model) == ("embeddings", Role.EMBED, "the-engine")
    assert (operation.prompt_tokens, operation.completion_tokens) == (3, 0)
    assert (operation.is_stream, operation.first_token_s, operation.error_type) == (False, None, None)
    assert operation.duration_s >= 0.005


async def test_a_generation_is_recorded_once_at_its_end(writer):
    events = stream(writer.backend, PROMPT, writer.context)
    await anext(events)
    assert writer.listener.operations == []
    async for _ in events:
        pass
    operation = writer.listener.operation
    assert (operation.name, operation.is_stream, operation.error_type) == ("text_completion", True, None)
    assert (operation.prompt_tokens, operation.completion_tokens) == (3, 4)
    assert operation.first_token_s is not None


async def test_a_complete_generation_is_recorded_with_its_choices(writer):
    request = GenerationRequest(prompt="abc", sampling=SamplingParameters(max_tokens=4, n=2, seed=1))
    result = await writer.backend.call(request, writer.context)
    assert [choice.finish_reason for choice in result.choices] == [FinishReason.LENGTH] * 2
    operation = writer.listener.operation
    assert (operation.name, operation.is_stream, operation.error_type) == ("text_completion", False, None)
    assert (operation.prompt_tokens, operation.completion_tokens, operation.choices) == (3, 8, 2)
    assert operation.first_token_s is None


async def test_a_call_without_inference_is_not_an_operation(writer):
    await writer.backend.call(TokenizeRequest(prompt="abc"), writer.context)
    assert writer.contexts == [writer.context]
    assert writer.listener.operations == []


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (BackendFailedError("x"), "server_error"),
        (BackendFailedError("x", code="engine_died"), "engine_died"),
        (ZeroDivisionError("secret"), "ZeroDivisionError"),
    ],
)
@pytest.mark.parametrize("streams", [True, False])
async def test_a_failure_is_recorded_and_raised(embedder, writer, error, name, streams):
    embedder.engine.fail_next = error
    with pytest.raises(type(error)):
        await embedder.backend.call(TEXTS, embedder.context)
    writer.engine.fail_next = error
    with pytest.raises(type(error)):
        await events_of(writer.backend, PROMPT, writer.context, streams=streams)
    assert embedder.listener.operation.error_type == writer.listener.operation.error_type == name


async def test_a_reader_that_stops_cancels_the_engine_call(writer):
    events = stream(writer.backend, PROMPT, writer.context)
    await anext(events)
    await events.aclose()
    assert writer.listener.operation.error_type == "cancelled"
    assert writer.engine.running == 0


@pytest.mark.parametrize(("count", "error_type"), [(1, "cancelled"), (4, "cancelled"), (5, None)])
async def test_an_abandoned_stream_is_complete_if_its_usage_arrived(writer, count, error_type):
    async with writer.backend.stream(PROMPT, writer.context) as events:
        for _ in range(count):
            await anext(events)
    assert writer.listener.operation.error_type == error_type
    assert writer.engine.running == 0


async def test_a_cancelled_call_is_recorded_as_such(embedder):
    embedder.engine.delay_s = 100
    call = asyncio.create_task(embedder.backend.call(TEXTS, embedder.context))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert embedder.listener.operation.error_type == "cancelled"
    assert embedder.engine.running == 0


async def test_other_observers_are_passed_through(embedder):
    # A request may already have another observer.
    record = OperationRecord(name="embeddings", role=Role.EMBED, model="m")
    operation = embedder.observation.begin(record, {})
    context = operation.context(embedder.context)
    await embedder.backend.call(TEXTS, context)
    assert embedder.contexts == [context]
