"""The faults: each harms something for real, and returns when all of it is well again."""

import asyncio
import contextlib
import json
import random
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import msgspec
import psutil

from tests.chaos.batches import LINES, BatchUnderWay
from tests.chaos.load import PROMPTS, Load, RefusedError
from tests.chaos.stored_responses import StoringClients
from tests.conftest import free_port
from tests.processes import ENGINE_FLAGS, ServiceProcess, VLLMServerProcess, tiny_environment

RECOVERY_S = 150.0
POLL_S = 0.05


class Stage(msgspec.Struct, kw_only=True):
    """A service under load, and what stands behind it."""

    service: ServiceProcess
    load: Load
    start_service: Callable[[], ServiceProcess]
    servers: dict[str, VLLMServerProcess] = {}
    start_server: Callable[[str], VLLMServerProcess] | None = None
    """For a gateway: vLLM's servers by role, and how one is started again at its own port."""

    async def recovered(self, *roles: str) -> None:
        """Until the roles are ready and have answered a request of their own."""
        deadline = time.monotonic() + RECOVERY_S
        for role in roles:
            while not await self.load.answers(role):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{role} did not come back:\n{self.service.output[-3000:]}")
                await asyncio.sleep(POLL_S)

    def engine(self, role: str) -> psutil.Process:
        """The process of an engine inside the service: they start in the order of their roles.

        After one was replaced it is the younger one, so the load's own answers tell: see `find_engines`.
        """
        return self.engines[role]

    engines: dict[str, psutil.Process] = {}

    async def find_engines(self) -> None:
        """Tell the engine processes apart by which of them works for a role."""
        roles = list(self.load.models)
        # While one starts it has helper processes, and for a moment it can't be looked at.
        while len(processes := await asyncio.to_thread(self.service.engine_processes)) != len(roles):
            await asyncio.sleep(POLL_S)
        known = {role: process for role, process in self.engines.items() if process in processes}
        # Other requests would make the others work as well.
        async with self.load.paused():
            while len(known) < len(roles):
                others = [process for process in processes if process not in known.values()]
                (role, *more) = [role for role in roles if role not in known]
                known[role] = await self._working(role, others) if more else others[0]
        self.engines = known

    async def _working(self, role: str, processes: list[psutil.Process]) -> psutil.Process:
        """The process that works when a role is asked."""
        before = [sum(process.cpu_times()[:2]) for process in processes]
        for number in range(200 if role == "embed" else 20):
            await self.load.ask(role, number)
        worked = [sum(process.cpu_times()[:2]) - cpu for process, cpu in zip(processes, before, strict=True)]
        return processes[worked.index(max(worked))]


Fault = Callable[[Stage], Awaitable[None]]


def _signalled(role: str, number: signal.Signals) -> Fault:
    async def fault(stage: Stage) -> None:
        lost = stage.engine(role)
        others = {other: tally for other, tally in stage.load.tallies.items() if other != role}
        refused = {other: tally.refused for other, tally in others.items()}
        lost.send_signal(number)
        # Wait until the loss is noticed, then for the recovery: a stopped engine answers no request meanwhile.
        while psutil.pid_exists(lost.pid) and lost.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(POLL_S)
        await stage.recovered(role)
        await stage.find_engines()
        for other, tally in others.items():
            if tally.refused > refused[other]:
                tally.wrong += 1
                tally.note(f"{tally.refused - refused[other]} refused by the {other} model, whose engine is alive")

    return fault


async def flood(stage: Stage) -> None:
    """500 connections at once, 64 of them streaming: all are answered, or refused at once."""
    load = stage.load
    streams = [load.stream(number) for number in range(64)]
    embeddings = [load.embed(number) for number in range(300)]
    completions = [load.complete(number) for number in range(136)]
    await asyncio.gather(*streams, *embeddings, *completions)
    await stage.recovered("embed", "generate")


async def embedding_flood(stage: Stage) -> None:
    """3,000 embeddings, 500 at a time, beside clients of the other model: none of those is refused or starved."""
    load = stage.load
    generate = load.tallies["generate"]
    refused, right = generate.refused, generate.right

    async def one_after_another(first: int) -> None:
        for number in range(6):
            await load.embed(first + number)

    await asyncio.gather(*(one_after_another(number) for number in range(500)))
    if generate.refused > refused:
        generate.wrong += 1
        generate.note(f"{generate.refused - refused} refused by the model that was not flooded")
    if generate.right < right + load.clients:
        generate.wrong += 1
        generate.note(
            f"{generate.right - right} answers for {load.clients} clients of the model that was not flooded"
        )
    await stage.recovered("embed", "generate")


async def leavers(stage: Stage) -> None:
    """Clients that send a request and go away, before and in the middle of the answer."""
    body = {"model": "tiny-gen", "prompt": PROMPTS[0], "max_tokens": 400, "ignore_eos": True}
    for number in range(100):
        request = _raw("/v1/completions", body | {"stream": number % 2 == 0})
        async with _connection(stage) as (reader, writer):
            writer.write(request)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            if number % 2 == 0:
                await reader.read(200)
            await asyncio.sleep(random.uniform(0, 0.02))
    await _idle(stage)
    await stage.recovered("generate")


async def garbage(stage: Stage) -> None:
    """Bytes that are no HTTP, no JSON, or not what the API takes."""
    bodies = [b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"model": NaN}', b'{"model":"tiny-gen","prompt":[[-1]]}']
    for number in range(200):
        async with _connection(stage) as (reader, writer):
            if number % 10 == 0:
                writer.write(random.randbytes(300) + b"\r\n\r\n")
            else:
                body = bodies[number % len(bodies)]
                writer.write(
                    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
                )
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(20):
                    status = (await reader.readline()).split(b" ")
                    if len(status) > 1 and status[1] >= b"500":
                        stage.load.tallies["generate"].wrong += 1
                        stage.load.tallies["generate"].note(f"garbage got {status[1]!r}")
    await stage.recovered("generate")


async def slow_clients(stage: Stage) -> None:
    """60 that send a byte a second, and 20 that never read the stream they asked for, for a while."""
    async with contextlib.AsyncExitStack() as opened:
        slow = [await opened.enter_async_context(_connection(stage)) for _ in range(60)]
        deaf = [await opened.enter_async_context(_connection(stage)) for _ in range(20)]
        body = {"model": "tiny-gen", "prompt": "x", "max_tokens": 400, "ignore_eos": True, "stream": True}
        for _, writer in deaf:
            writer.write(_raw("/v1/completions", body))
        request = _raw("/v1/embeddings", {"model": "tiny-embed", "input": "slow"})
        for sent in range(8):
            for _, writer in slow:
                with contextlib.suppress(ConnectionError):
                    writer.write(request[sent : sent + 1])
            await asyncio.sleep(1)
    await stage.recovered("embed", "generate")


async def drain(stage: Stage) -> None:
    """SIGTERM under load: what is under way is answered, and a new service takes over."""
    stage.load.is_service_there = False
    stage.service.signal(signal.SIGTERM)
    code = await asyncio.to_thread(stage.service.wait, 90)
    if code != 0:
        stage.load.tallies["generate"].wrong += 1
        stage.load.tallies["generate"].note(f"a service that was told to end ended with {code}")
    await _start_again(stage)


async def kill_service(stage: Stage) -> None:
    """kill -9 of the service itself: nothing of it is left, and a new one starts at the same port."""
    stage.load.is_service_there = False
    engines = await asyncio.to_thread(stage.service.engine_processes)
    stage.service.signal(signal.SIGKILL)
    await asyncio.to_thread(stage.service.wait, 30)
    left = (await asyncio.to_thread(psutil.wait_procs, engines, 20))[1]
    if left:
        stage.load.tallies["generate"].wrong += 1
        stage.load.tallies["generate"].note(f"engines outlive their service: {left}")
    await _start_again(stage)


async def kill_while_storing(stage: Stage) -> None:
    """kill -9 of the service while clients store responses: none that a client has seen is lost or incomplete."""
    clients = StoringClients(stage.load.http, "tiny-gen")
    await asyncio.wait_for(clients.run(), 60)
    await kill_service(stage)
    await clients.join()
    tally = stage.load.tallies["generate"]
    ended = sum(seen.completed is not None for seen in clients.seen)
    if not 0 < ended < len(clients.seen):
        tally.note(f"{ended} of {len(clients.seen)} responses had ended: some should have, and some not")
        tally.wrong += 1
    for mistake in await clients.mistakes():
        tally.wrong += 1
        tally.note(mistake)


def killed_during_a_batch(kills: int) -> Fault:
    """kill -9 of the service during one batch, so many times: each line is answered exactly once."""

    async def fault(stage: Stage) -> None:
        batch = BatchUnderWay(stage.load.http, stage.load.models["embed"])
        tally = stage.load.tallies["embed"]
        # Beside the load the batch would take many minutes.
        async with stage.load.paused():
            await batch.create()
            answered = 0
            for number in range(kills):
                answered = await batch.until(max(answered + 1, (number + 1) * LINES // (kills + 1)))
                if answered == LINES:
                    tally.wrong += 1
                    tally.note(f"the batch had ended before kill {number + 1}")
                await kill_service(stage)
            assert stage.load.truth is not None
            mistakes = await batch.mistakes(stage.load.truth)
        tally.right += LINES - len(mistakes)
        tally.wrong += len(mistakes)
        for mistake in mistakes:
            tally.note(mistake)

    return fault


async def _start_again(stage: Stage) -> None:
    stage.service = await asyncio.to_thread(stage.start_service)
    stage.load.is_service_there = True
    await stage.recovered(*stage.load.models)
    if not stage.servers:
        await stage.find_engines()


def server_signalled(role: str, number: signal.Signals) -> Fault:
    """A vLLM server behind a gateway that dies, or stops and goes on after a while."""

    async def fault(stage: Stage) -> None:
        server = stage.servers[role]
        below = await asyncio.to_thread(server.engine_processes)
        server.signal(number)
        if number is signal.SIGSTOP:
            await asyncio.sleep(5)
            server.signal(signal.SIGCONT)
        else:
            await asyncio.to_thread(server.wait, 30)
            # vLLM's own server leaves its engine behind when it is killed.
            for process in below:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            await asyncio.to_thread(server.end)
            assert stage.start_server is not None
            stage.servers[role] = await asyncio.to_thread(stage.start_server, role)
        await stage.recovered(role)

    return fault


IN_PROCESS: dict[str, Fault] = {
    "generation engine: kill -9": _signalled("generate", signal.SIGKILL),
    "embedding engine: kill -9": _signalled("embed", signal.SIGKILL),
    "reranking engine: kill -9": _signalled("rerank", signal.SIGKILL),
    "generation engine: stopped (SIGSTOP)": _signalled("generate", signal.SIGSTOP),
    "embedding engine: stopped (SIGSTOP)": _signalled("embed", signal.SIGSTOP),
    "500 connections at once, 64 streaming": flood,
    "3,000 embeddings, 500 at a time, beside generation": embedding_flood,
    "100 clients that leave": leavers,
    "200 times garbage": garbage,
    "slow and deaf clients": slow_clients,
    "SIGTERM of the service, and a new one": drain,
    "kill -9 of the service while responses are stored, and a new one": kill_while_storing,
    "kill -9 of the service during a batch of 5,000 embeddings": killed_during_a_batch(1),
}
LONG: dict[str, Fault] = {
    "5 times kill -9 of the service during a batch of 5,000 embeddings": killed_during_a_batch(5),
}
"""Takes minutes."""
GATEWAY: dict[str, Fault] = {
    "embedding server: kill -9, and a new one": server_signalled("embed", signal.SIGKILL),
    "generation server: stopped for 5 s": server_signalled("generate", signal.SIGSTOP),
    "gateway: 500 connections at once": flood,
    "gateway: 100 clients that leave": leavers,
}


def inprocess_stage(models: dict[str, Path]) -> Callable[[], ServiceProcess]:
    """Starts a service with all engines inside, always at the same port."""
    port = free_port()

    def start() -> ServiceProcess:
        # The same bounds for everybody, small enough to be met by a flood.
        environment = tiny_environment(models) | {
            "MODEL_RERANK_NAME": str(models["tiny-rerank"]),
            "VLLM_RERANK_ARGS": ENGINE_FLAGS,
            "HANG_TIMEOUT_S": "5",
            "GEN_MAX_WAITING": "100",
            "MEMORIA_DATA_DIR": str(models["tiny-gen"].parent / "state"),
        }
        service = ServiceProcess(environment, port=port)
        service.wait_until_ready()
        return service

    return start


def _raw(path: str, body: dict) -> bytes:
    content = json.dumps(body).encode()
    return (
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % (path.encode(), len(content))
        + content
    )


@contextlib.asynccontextmanager
async def _connection(
    stage: Stage,
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    port = int(stage.load.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _idle(stage: Stage) -> None:
    """Until nothing runs but what the load itself asks for."""
    allowed = stage.load.under_way["generate"]
    deadline = time.monotonic() + 10
    while True:
        response = await stage.load.http.get("/health")
        queue = response.json()["backends"]["generate"]["queue"]
        if queue["running"] + queue["waiting"] <= max(allowed, stage.load.under_way["generate"]):
            return
        if time.monotonic() > deadline:
            raise RefusedError("the work of clients that left goes on")
        await asyncio.sleep(POLL_S)
