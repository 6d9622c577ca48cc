"""What batches cost interactive clients, in a simulation of an engine that computes all its sequences in steps.

The clock is simulated, so that the figures are the same on every machine.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest

from domain.load import Bounds
from domain.policies.admission import AdmissionBackend
from domain.policies.allowance import BatchRules, InteractiveActivity, YieldingPolicy
from domain.port import RequestContext
from domain.requests import EmbeddingRequest
from domain.results import EmbeddingResult
from domain.service_class import ServiceClass
from tests.unit.waiting import now, run_instantly

INTERACTIVE, _, BATCH = ServiceClass
UNUSED = EmbeddingResult(vectors=b"", dimensions=1, prompt_tokens=0)
LINES = 512
"""Lines of a batch that its runner keeps going."""
WARM_UP_S, MEASURED_S = 5.0, 30.0
THINK_S = 0.003


class Model(NamedTuple):
    """The time of one step, and the steps of one request."""

    base_s: float
    sequence_s: float
    steps: int


EMBEDDING = Model(base_s=0.004, sequence_s=0.0004, steps=1)
CHAT = Model(base_s=0.006, sequence_s=0.0003, steps=32)


class Engine:
    """Computes all of its sequences at once, step by step."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._steps: dict[asyncio.Future[None], int] = {}
        self._loop: asyncio.Task[None] | None = None

    async def call(self, _request: EmbeddingRequest, _context: RequestContext) -> EmbeddingResult:
        done = asyncio.get_running_loop().create_future()
        self._steps[done] = self._model.steps
        if self._loop is None:
            self._loop = asyncio.create_task(self._compute())
        await done
        return UNUSED

    async def _compute(self) -> None:
        while self._steps:
            step = dict(self._steps)
            await asyncio.sleep(self._model.base_s + self._model.sequence_s * len(step))
            for done in step:
                self._steps[done] -= 1
                if not self._steps[done]:
                    del self._steps[done]
                    if not done.done():
                        done.set_result(None)
        self._loop = None


class Measured(msgspec.Struct):
    """Durations of the requests of one class that ended in the measured time."""

    durations_s: list[float] = msgspec.field(default_factory=list)

    @property
    def throughput(self) -> int:
        return len(self.durations_s)

    @property
    def p95_s(self) -> float:
        return sorted(self.durations_s)[int(0.95 * len(self.durations_s))]


def measure(model: Model, *, clients: int = 0, lines: int = 0, line_class: ServiceClass = BATCH) -> list[Measured]:
    """Interactive clients beside the lines of a batch, which has run for a while when the clients arrive."""
    bounds = Bounds(max_running=512)

    async def scenario() -> list[Measured]:
        activity = InteractiveActivity()
        policy = YieldingPolicy(bounds, activity, BatchRules())
        admission = AdmissionBackend(Engine(model), bounds, activity=activity, policy=policy)
        found = [Measured(), Measured()]
        work = [asyncio.create_task(_repeat(admission, line_class, found[1], 0.0)) for _ in range(lines)]
        await asyncio.sleep(WARM_UP_S)
        work += [asyncio.create_task(_repeat(admission, INTERACTIVE, found[0], THINK_S)) for _ in range(clients)]
        await asyncio.sleep(MEASURED_S)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        return found

    return run_instantly(scenario())


async def _repeat(
    admission: AdmissionBackend, service_class: ServiceClass, into: Measured, think_s: float
) -> None:
    context = RequestContext(request_id="test", service_class=service_class)
    request = EmbeddingRequest(inputs=[[1] * 50])
    while True:
        began = now()
        await admission.call(request, context)
        if now() >= WARM_UP_S:
            into.durations_s.append(now() - began)
        await asyncio.sleep(think_s)


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> None:
    read: Callable[[], float] = lambda: now()  # noqa: E731
    monkeypatch.setattr("domain.policies.admission.time.monotonic", read)


@pytest.mark.parametrize(("model", "clients"), [(EMBEDDING, 8), (EMBEDDING, 64), (CHAT, 8), (CHAT, 32)], ids=str)
def test_a_batch_costs_interactive_clients_little(model, clients):
    (alone, _), (beside, batch) = measure(model, clients=clients), measure(model, clients=clients, lines=LINES)
    assert beside.throughput >= 0.9 * alone.throughput
    assert beside.p95_s <= 1.2 * alone.p95_s
    assert batch.throughput, "the batch is not starved"


@pytest.mark.parametrize("model", [EMBEDDING, CHAT], ids=str)
def test_a_batch_alone_is_nearly_as_fast_as_interactive_clients(model):
    (_, batch), (_, closed_loop) = measure(model, lines=LINES), measure(model, lines=LINES, line_class=INTERACTIVE)
    assert batch.throughput >= 0.9 * closed_loop.throughput
