"""The wrapper that tells of calls: it changes nothing, and is not there where nobody watches."""

import asyncio

import pytest

from app.telemetry.observed_backend import ObservedBackend
from app.telemetry.request import RequestObservation
from domain.errors import BackendFailedError
from domain.port import RequestContext
from domain.requests import EmbeddingRequest, GenerationRequest
from domain.results import GenerationUsage
from domain.roles import Role
from domain.sampling import SamplingParameters
from tests.fakes import FakeBackend
from tests.unit.observed import Heard

TEXTS = EmbeddingRequest(inputs=["a", "bb"])
PROMPT = GenerationRequest(prompt="abc", sampling=SamplingParameters(temperature=0.0, max_tokens=4), stream=True)


class Watched:
    """A wrapper around a fake, and the context of a request that is watched."""

    def __init__(self, role: Role, *, model: str | None = "the-model") -> None:
        self.engine = FakeBackend(role, name="the-engine")
        self.backend = ObservedBackend(self.engine, role, model=model)
        self.heard = Heard()
        scope = {"type": "http", "method": "POST", "path": "/", "state": {}}
        self.observation = RequestObservation(scope, "id", [self.heard], None)
        self.context = RequestContext(request_id="id", timeout_s=5, observer=self.observation)
        self.contexts: list[RequestContext] = []
        for method in ("embed", "generate"):
            setattr(self.engine, method, self._kept(getattr(self.engine, method)))

    def _kept(self, method):
        def call(request, context):
            self.contexts.append(context)
            return method(request, context)

        return call


async def all_of(events) -> list:
    return [event async for event in events]


@pytest.fixture
async def embedder() -> Watched:
    made = Watched(Role.EMBED)
    await made.backend.start()
    return made


@pytest.fixture
async def writer() -> Watched:
    made = Watched(Role.GENERATE)
    await made.backend.start()
    return made


async def test_answers_are_the_engines(embedder, writer):
    plain = RequestContext(request_id="id")
    assert await embedder.backend.embed(TEXTS, embedder.context) == await embedder.engine.embed(TEXTS, plain)
    told = await all_of(writer.backend.generate(PROMPT, writer.context))
    assert told == await all_of(writer.engine.generate(PROMPT, plain))
    assert isinstance(told[-1], GenerationUsage)


async def test_the_name_is_the_engines_as_soon_as_it_is_known():
    made = Watched(Role.EMBED, model=None)
    made.engine.started = True
    await made.backend.embed(TEXTS, made.context)
    await made.backend.start()
    await made.backend.embed(TEXTS, made.context)
    assert [operation.model for operation in made.heard.operations] == ["unknown", "the-engine"]


async def test_the_rest_of_the_context_travels_on(embedder):
    await embedder.backend.embed(TEXTS, embedder.context)
    (context,) = embedder.contexts
    assert (context.request_id, context.timeout_s, context.trace) == ("id", 5, None)
    assert context.observer not in (None, embedder.observation)


async def test_a_request_that_nobody_watches_goes_straight_to_the_engine(writer, embedder):
    plain = RequestContext(request_id="id")
    direct = writer.backend.generate(PROMPT, plain)
    # Its own generator, and not another one around it: each token would pay for that.
    assert direct.ag_code is FakeBackend.generate.__code__
    await direct.aclose()
    await embedder.backend.embed(TEXTS, plain)
    assert embedder.contexts == [plain]
    assert embedder.heard.operations == []


async def test_an_embedding_is_told(embedder):
    embedder.engine.delay_s = 0.005
    await embedder.backend.embed(TEXTS, embedder.context)
    operation = embedder.heard.operation
    assert (operation.name, operation.role, operation.model) == ("embeddings", Role.EMBED, "the-engine")
    assert (operation.prompt_tokens, operation.completion_tokens) == (3, 0)
    assert (operation.is_stream, operation.first_token_s, operation.error_type) == (False, None, None)
    assert operation.duration_s >= 0.005


async def test_a_generation_is_told_once_at_its_end(writer):
    events = writer.backend.generate(PROMPT, writer.context)
    await anext(events)
    assert writer.heard.operations == []
    await all_of(events)
    operation = writer.heard.operation
    assert (operation.name, operation.is_stream, operation.error_type) == ("text_completion", True, None)
    assert (operation.prompt_tokens, operation.completion_tokens) == (3, 4)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (BackendFailedError("x"), "server_error"),
        (BackendFailedError("x", code="engine_died"), "engine_died"),
        (ZeroDivisionError("secret"), "ZeroDivisionError"),
    ],
)
async def test_a_failure_is_told_and_raised(embedder, writer, error, name):
    embedder.engine.fail_next = error
    with pytest.raises(type(error)):
        await embedder.backend.embed(TEXTS, embedder.context)
    writer.engine.fail_next = error
    with pytest.raises(type(error)):
        await all_of(writer.backend.generate(PROMPT, writer.context))
    assert embedder.heard.operation.error_type == writer.heard.operation.error_type == name


async def test_who_stops_reading_has_cancelled_it_and_the_engine_hears_of_it(writer):
    events = writer.backend.generate(PROMPT, writer.context)
    await anext(events)
    await events.aclose()
    assert writer.heard.operation.error_type == "cancelled"
    assert writer.engine.running == 0


async def test_a_cancelled_call_is_told_as_such(embedder):
    embedder.engine.delay_s = 100
    call = asyncio.create_task(embedder.backend.embed(TEXTS, embedder.context))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert embedder.heard.operation.error_type == "cancelled"
    assert embedder.engine.running == 0


async def test_observers_of_other_kinds_are_left_alone(embedder):
    # A request may come in with what watches an operation already.
    operation = embedder.observation.begin(embedder.backend._record("embeddings"), {})
    context = operation.context(embedder.context)
    await embedder.backend.embed(TEXTS, context)
    assert embedder.contexts == [context]
