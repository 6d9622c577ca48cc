"""The service that is proved: waits for it, loads it, kills one of its engines."""

import asyncio
import contextlib
import json
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
import psutil
import uvloop

from app.commands.bench import workloads
from app.commands.bench.measure import Measurement, measure
from app.commands.bench.processes import Server
from app.commands.bench.workloads import Side, Workload
from domain.roles import Role
from tools.gpu_proof.clock import Clock
from tools.gpu_proof.steps import ProofError

POLL_S = 0.5
SAY_EVERY_S = 15.0
FAILED = ("failed", "dead", "hung")
SERVING = ("ready", "busy")
ENGINE = "EngineCore"
"""Part of the name that vLLM gives the process of an engine."""
REASONS = 8
"""Lines of a log that are kept of a failed start."""
_ERROR = re.compile(r"\b\w*(Error|Exception)\b|could not start|out of memory", re.IGNORECASE)
T = TypeVar("T")


class StartError(ProofError):
    """The service did not come up; the message says why."""


def wait_until_ready(service: Server, clock: Clock) -> float:
    """Seconds until both models serve.

    Raises:
        StartError: an engine has failed, the service has ended, or the time is over.
    """
    began = said = time.monotonic()
    while True:
        health = get_json(f"{service.url}/health") or {"status": "", "backends": {}}
        if health["status"] == "ok":
            return time.monotonic() - began
        lost = [f"{role}: {one['reason']}" for role, one in health["backends"].items() if one["state"] in FAILED]
        if lost:
            # It would be tried again, but what is to be proved is that it starts by its plan.
            raise StartError(f"An engine has failed. {' '.join(lost)}")
        if not service.is_running:
            raise StartError(f"The service has ended. It said: {last_words(service.log)}")
        if clock.is_over:
            raise StartError(f"The engines were not ready in time. The service said: {last_words(service.log)}")
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            states = [f"{role} {one['state']} ({one['reason']})" for role, one in health["backends"].items()]
            clock.say(f"waiting: {', '.join(states) or 'the service does not listen yet'}")
        time.sleep(POLL_S)


def last_words(log: str) -> str:
    """The errors in a log, or its end, as one line."""
    lines = [_message(line) for line in log.splitlines()]
    # The process that asks for an engine says only that it failed; the engine said before why.
    errors = [line for line in lines if _ERROR.search(line) and "See root cause above" not in line]
    return " ".join(" ".join((errors or lines)[-REASONS:]).split())[-1500:]


def _message(line: str) -> str:
    """What a line of the service's log says; other lines as they are."""
    record = _json_of(line.encode)
    return str(record.get("message", line)) if isinstance(record, dict) else line


def settled_health(service: Server, clock: Clock) -> dict[str, Any] | None:
    """The health of the service, a little later than now: memory is measured every few seconds."""
    patience = time.monotonic() + min(10.0, clock.left_s)
    health = None
    while time.monotonic() < patience:
        health = get_json(f"{service.url}/health")
        told = [one.get("memory") for one in (health or {"backends": {}})["backends"].values()]
        if told and all(memory is None or memory.get("measured_bytes") for memory in told):
            break
        time.sleep(POLL_S)
    return health


def loads(clients: Sequence[int]) -> list[Workload]:
    """Embeddings, completions and streams from each number of clients, all by time."""
    # With dummy weights each token may be a special one. The service sends no event without a text, and vLLM does:
    # the times of the first would not be comparable.
    streams = msgspec.structs.replace(workloads.STREAMS, shows_special_tokens=True)
    kinds = (workloads.EMBEDDINGS, workloads.COMPLETIONS, streams)
    return [
        msgspec.structs.replace(kind.with_clients(number), requests=None) for number in clients for kind in kinds
    ]


async def measured(side: Side, wanted: Sequence[Workload], *, seconds: float) -> list[Measurement]:
    """One round of each workload."""
    return [await measure(load, side, seconds=seconds) for load in wanted]


def run_within(work: Coroutine[Any, Any, T], clock: Clock) -> T:
    """Run a coroutine to its end; SIGTERM ends it, and then the script.

    Raises:
        TimeoutError: it takes longer than the time that is left.
    """
    before = signal.getsignal(signal.SIGTERM)

    async def until_signal() -> T:
        task = asyncio.current_task()
        assert task is not None
        # An exception from a signal handler would end one callback of the loop, and nothing else.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await asyncio.wait_for(work, clock.left_s)

    try:
        return uvloop.run(until_signal())
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def prove_restart(service: Server, clock: Clock) -> dict[str, Any]:
    """Kill an engine, and use the other until both serve again.

    Returns:
        The role that was `killed`, `ready_after_s` of seconds, and how often the other was `asked` and `failed`.

    Raises:
        ProofError: there is no engine to kill, or it did not come back.
    """
    began, asked, failed, killed = time.monotonic(), 0, 0, None
    _kill_engine(service.pid)
    while not clock.is_over:
        backends = (get_json(f"{service.url}/health") or {"backends": {}})["backends"]
        lost = [role for role, one in backends.items() if one["state"] not in SERVING]
        killed = killed or (lost[0] if lost else None)
        for role in backends:
            if killed and role != killed:
                asked += 1
                failed += not _answers(service.url, Role(role), backends[role]["model"])
        if killed and backends and not lost:
            took = round(time.monotonic() - began, 1)
            return {"killed": killed, "ready_after_s": took, "asked": asked, "failed": failed}
        time.sleep(POLL_S / 5)
    raise ProofError(f"The killed engine ({killed or 'whose loss was not noticed'}) did not come back in time.")


def _kill_engine(pid: int) -> None:
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if ENGINE in " ".join([child.name(), *child.cmdline()]):
                child.kill()
                return
    raise ProofError("No process of an engine was found to be killed.")


def _answers(url: str, role: Role, model: str) -> bool:
    path, asked = ("embeddings", "input") if role is Role.EMBED else ("completions", "prompt")
    body = {"model": model, asked: "A question."}
    request = urllib.request.Request(
        f"{url}/v1/{path}", msgspec.json.encode(body), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30):
            return True
    except OSError:
        return False


def get_json(url: str) -> Any:
    """An answer as JSON, whatever its status; None if none came."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return _json_of(error.read)
    except (OSError, ValueError):
        return None


def _json_of(read: Callable[[], bytes]) -> Any:
    try:
        return json.loads(read())
    except (OSError, ValueError):
        return None
