import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from adapters.retrying import RetryingBackend
from adapters.vllm.http.backend import VLLMHTTPBackend
from app.commands.bench import tiny_models as tiny
from domain.load import Bounds
from domain.policies.admission import AdmissionBackend
from domain.policies.balancing import BalancingBackend
from domain.policies.batching import BatchingBackend
from domain.policies.circuit_breaker import CircuitBreaker
from domain.policies.deadline import DeadlineBackend
from domain.policies.embedding_cache import CachingBackend
from domain.policies.member import LoneMember, Member
from domain.policies.retry_budget import RetryBudget
from domain.policies.splitting import SplittingBackend
from domain.policies.supervision import SupervisionBackend
from domain.policies.wrapper import BackendWrapper
from domain.port import EventStream, InferenceBackend, RequestContext
from domain.requests import GenerationRequest, Request, ResultT
from domain.roles import Role
from domain.service_class import ServiceClass
from tests import tiny_rerankers
from tests.contract.cases import Case
from tests.fakes import LENGTHS, VOCABULARY, FakeBackend
from tests.processes import ENGINE_FLAGS

REAL_KINDS = [
    pytest.param("vllm-inprocess", marks=pytest.mark.integration),
    pytest.param("vllm-http", marks=pytest.mark.integration),
]
KINDS = [
    "fake",
    "supervision",
    "batching",
    "caching",
    "admission",
    "admission-batch",
    "deadline",
    "splitting",
    "lone-server",
    "balancing",
    *REAL_KINDS,
]
# So narrow that most of many concurrent requests wait.
NARROW = Bounds(max_running=2, max_waiting=100, max_running_tokens=10**6, max_waiting_tokens=10**9)
NAMES = {Role.EMBED: "tiny-embed", Role.GENERATE: "tiny-gen", Role.RERANK: "tiny-rerank"}


@pytest.fixture(scope="package")
def inprocess_setups(tiny_models: dict[str, Path]) -> dict[Role, object]:
    """vLLM configurations of the tiny models, for in-process engines."""
    from adapters.vllm.inprocess.engine_args import default_flags, engine_setup, prepare_environment

    prepare_environment(log_level="error", offline=True)
    models = {role: tiny_models[name] for role, name in NAMES.items()}
    return {
        role: engine_setup(
            role=role,
            model=str(folder),
            served_name=folder.name,
            defaults=default_flags(on_gpu=False, plan=None),
            flags=ENGINE_FLAGS,
            setting="VLLM_ARGS",
        )
        for role, folder in models.items()
    }


@pytest.fixture(scope="package")
async def inprocess_backends(inprocess_setups: dict[Role, object]) -> AsyncGenerator[dict, None]:
    """The tiny models on in-process engines, which stop after the tests of this package."""
    from adapters.vllm.inprocess.backend import VLLMInProcessBackend

    backends = {
        role: VLLMInProcessBackend(role=role, name=NAMES[role], setup=setup)
        for role, setup in inprocess_setups.items()
    }
    await asyncio.gather(*(backend.start() for backend in backends.values()))
    yield backends
    await asyncio.gather(*(backend.stop() for backend in backends.values()))


Kind = tuple[str, dict[str, Any]]
"""Name of a backend, and the shared engines that it uses."""


@pytest.fixture(scope="module", params=KINDS)
def kind_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest, kind_name: str) -> Kind:
    needed = {
        "vllm-inprocess": ("inprocess_backends", "tiny_models"),
        "vllm-http": ("vllm_servers", "tiny_models"),
    }
    return kind_name, {name: request.getfixturevalue(name) for name in needed.get(kind_name, ())}


async def _make(kind: Kind, role: Role) -> tuple[Case, Callable[[], Awaitable[None]] | None]:
    name, engines = kind
    if name == "vllm-inprocess":
        return _inprocess(role, engines), None
    if name == "vllm-http":
        return await _http(role, engines)
    return await _fake(name, role)


async def _fake(kind: str, role: Role) -> tuple[Case, Callable[[], Awaitable[None]]]:
    fakes = [
        FakeBackend(role, max_model_len=tiny.MAX_MODEL_LEN, delay_s=0.001)
        for _ in range(3 if kind == "balancing" else 1)
    ]
    fake = fakes[0]
    wrapped = {
        "supervision": lambda: SupervisionBackend(fake, role, model="fake"),
        "batching": lambda: BatchingBackend(fake),
        "caching": lambda: CachingBackend(fake, max_bytes=2**20),
        "admission": lambda: AdmissionBackend(fake, NARROW),
        "admission-batch": lambda: _AsBatch(AdmissionBackend(fake, NARROW)),
        "deadline": lambda: DeadlineBackend(fake, timeout_s=60),
        "splitting": lambda: SplittingBackend(fake),
        "lone-server": lambda: _retrying(_member(fake, LoneMember)),
        "balancing": lambda: _retrying(BalancingBackend([_member(one) for one in fakes], setting="URLS")),
    }
    backend = wrapped[kind]() if kind in wrapped else fake
    await backend.start()

    async def running() -> int:
        return sum(one.running for one in fakes)

    case = Case(
        name=kind,
        is_fake=True,
        backend=backend,
        tokenize=lambda text: [ord(character) for character in text],
        vocabulary=VOCABULARY,
        lengths=LENGTHS,
        max_model_len=fake.max_model_len,
        running=running,
    )
    return case, backend.stop


class _AsBatch(BackendWrapper):
    """Makes every request a line of a batch."""

    async def call(self, request: Request[ResultT], context: RequestContext) -> ResultT:
        return await self._backend.call(request, _as_batch(context))

    def stream(self, request: GenerationRequest, context: RequestContext) -> EventStream:
        return self._backend.stream(request, _as_batch(context))


def _as_batch(context: RequestContext) -> RequestContext:
    return msgspec.structs.replace(context, service_class=ServiceClass.BATCH)


def _member(fake: FakeBackend, kind: type[Member] = Member) -> Member:
    return kind(fake, address="host:1", breaker=CircuitBreaker(time.monotonic), clock=time.monotonic)


def _retrying(backend: InferenceBackend) -> RetryingBackend:
    return RetryingBackend(backend, retries=2, budget=RetryBudget(time.monotonic))


def _tokenizer(folder: Path) -> Callable[[str], list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda text: tokenizer(text)["input_ids"]


def _inprocess(role: Role, engines: dict[str, Any]) -> Case:
    backend = engines["inprocess_backends"][role]

    async def running() -> int:
        return backend.unfinished_requests()

    return _tiny("vllm-inprocess", backend, engines["tiny_models"][NAMES[role]], running)


async def _http(role: Role, engines: dict[str, Any]) -> tuple[Case, Callable[[], Awaitable[None]]]:
    url = engines["vllm_servers"][role]
    backend = VLLMHTTPBackend(role=role, base_url=url)
    await backend.start()

    async def running() -> int:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            metrics = (await client.get(f"{url}/metrics")).text
        counts = re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} ([\d.]+)$", metrics, re.M)
        assert counts, "the server reports its running requests"
        return int(sum(map(float, counts)))

    case = _tiny("vllm-http", backend, engines["tiny_models"][NAMES[role]], running)
    # The server must notice that the connection is closed, and its metrics lag behind.
    case.abort_s = 2
    return case, backend.stop


def _tiny(name: str, backend: InferenceBackend, folder: Path, running: Callable[[], Awaitable[int]]) -> Case:
    return Case(
        name=name,
        backend=backend,
        tokenize=_tokenizer(folder),
        vocabulary=tiny.VOCABULARY,
        lengths=tuple(tiny.LENGTHS),
        max_model_len=tiny_rerankers.MAX_MODEL_LEN if folder.name == NAMES[Role.RERANK] else tiny.MAX_MODEL_LEN,
        running=running,
        folder=folder,
    )


@pytest.fixture(scope="module")
async def embedder(kind: Kind) -> AsyncGenerator[Case, None]:
    case, stop = await _make(kind, Role.EMBED)
    yield case
    if stop is not None:
        await stop()


@pytest.fixture(scope="module")
async def generator(kind: Kind) -> AsyncGenerator[Case, None]:
    case, stop = await _make(kind, Role.GENERATE)
    yield case
    if stop is not None:
        await stop()


@pytest.fixture(scope="module")
async def reranker(kind: Kind) -> AsyncGenerator[Case, None]:
    case, stop = await _make(kind, Role.RERANK)
    yield case
    if stop is not None:
        await stop()
