"""Runs one AsyncLLM in a dedicated thread, which starts and stops it."""

import asyncio
import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import psutil
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor import Executor

from adapters.resource_tracker import is_resource_tracker
from adapters.vllm.inprocess.engine_log import EngineLog
from adapters.vllm.inprocess.executors import owned_executor
from adapters.vllm.inprocess.statistics import EngineStatistics, stat_loggers
from domain.errors import BackendFailedError
from domain.port import StepListener, ignore_step

SHUTDOWN_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 5.0
LOG_TIMEOUT_S = 2.0


class EngineThread:
    """Starts an engine without blocking the event loop, and ends all its processes.

    Constructing an AsyncLLM blocks for up to a minute, hence the thread. The thread lives until the engine has
    ended: the kernel binds engine processes to the thread that spawned them (`owner.py`), and lists the children
    of each thread separately, so that a start can be aborted by killing only the processes of this engine.
    """

    def __init__(self, config: VllmConfig, *, name: str, statistics: EngineStatistics | None = None) -> None:
        """Create the thread without starting it.

        Args:
            config: vLLM's configuration.
            name: the model's name for clients.
            statistics: collects the engine's metrics; None for no metrics.
        """
        self._config = config
        self._name = name
        self._statistics = statistics
        _threads[name] = self
        self._built: Future[AsyncLLM] = Future()
        self._stop = threading.Event()
        self._on_process_started: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)

    async def start(self, on_step: StepListener = ignore_step) -> AsyncLLM:
        """Start the engine; return when it accepts requests.

        Args:
            on_step: called with the name of each step of the start.

        Raises:
            BackendFailedError: the engine could not start.
        """
        loop = asyncio.get_running_loop()
        self._on_process_started = lambda: loop.call_soon_threadsafe(on_step, "loading the model")
        on_step("starting its process")
        engine_log().forget(self._name)
        self._thread.start()
        try:
            # Shielded, so that a cancelled wait does not cancel the future that the thread will complete.
            return await asyncio.shield(asyncio.wrap_future(self._built))
        except asyncio.CancelledError:
            self._stop.set()
            raise
        except Exception as error:
            raise BackendFailedError(
                f"The engine of '{self._name}' could not start: {self._reason(error)} "
                "Set ENGINE_LOG_LEVEL=info to see its full log."
            ) from error

    async def stop(self) -> None:
        """Stop the engine and all its processes, in any state."""
        self._cancel_output_handler()
        self._stop.set()
        if not self._thread.is_alive():
            return
        if not self._built.done():
            # The thread is in the constructor, waiting for processes that are still starting; killing them
            # ends the wait.
            while self._thread.is_alive() and not self._built.done():
                await asyncio.to_thread(self.kill)
                await asyncio.sleep(0.1)
        await asyncio.to_thread(self._thread.join, SHUTDOWN_TIMEOUT_S + 2 * KILL_TIMEOUT_S)

    def processes(self) -> list[psutil.Process]:
        """The engine's processes, children before grandchildren; empty once the engine has ended."""
        found: list[psutil.Process] = []
        for pid in self.child_ids():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                # Python's resource tracker is shared by all; it ends with this process.
                if not is_resource_tracker(process):
                    found.append(process)
                    found += process.children(recursive=True)
        return found

    def process_started(self) -> None:
        """Called by the log, in any thread, when an engine process has loaded its libraries."""
        if not self._built.done():
            # The event loop may have been closed meanwhile.
            with contextlib.suppress(RuntimeError):
                self._on_process_started()

    def child_ids(self) -> list[int]:
        """Ids of the child processes of this thread that have not been reaped."""
        try:
            children = Path(f"/proc/self/task/{self._thread.native_id}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in children.split()]

    def _reason(self, error: Exception) -> str:
        reason = engine_log().reason(self._name) or str(error) or type(error).__name__
        return reason if reason.endswith((".", "!")) else f"{reason}."

    def _cancel_output_handler(self) -> None:
        """Cancel vLLM's output handler task, which would report the engine's end as a failure."""
        if self._built.done() and self._built.exception() is None:
            handler = self._built.result().output_handler
            if handler is not None:
                handler.cancel()

    def _run(self) -> None:
        # Inherited by the engine's processes, so that Ctrl-C in a terminal reaches only the service, which then
        # stops them cleanly.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            engine = AsyncLLM(
                vllm_config=self._config,
                executor_class=owned_executor(
                    Executor.get_class(self._config),
                    on_cpu=current_platform.is_cpu(),
                    workers=self._config.parallel_config.world_size,
                ),
                # vLLM's own statistics cost a sixth of the time per token; `stat_loggers` replaces them.
                log_stats=False,
                stat_loggers=stat_loggers(self._config, self._statistics),
                log_requests=False,
            )
        except BaseException as error:
            self.kill()
            # Its last output, usually the reason, may still be in transit.
            engine_log().wait_for_end(self._name, LOG_TIMEOUT_S)
            self._built.set_exception(error)
            return
        self._built.set_result(engine)
        self._stop.wait()
        processes = self.processes()
        with contextlib.suppress(Exception):
            engine.shutdown(timeout=SHUTDOWN_TIMEOUT_S)
        # The destructor of an AsyncLLM fails if it runs when the interpreter exits.
        self._built = Future()
        del engine
        _kill(processes)

    def kill(self) -> None:
        """Kill the engine's processes, which makes vLLM fail all pending requests. Blocks briefly."""
        _kill(self.processes())


_threads: dict[str, EngineThread] = {}
"""All engines of this process, by name."""


@functools.cache
def engine_log() -> EngineLog:
    """The log of all engines of this process, created when the first engine starts."""
    # vLLM's log level decides what engines print; if it is above WARNING, their output is not echoed.
    echo = os.environ.get("VLLM_LOGGING_LEVEL", "INFO") in ("DEBUG", "INFO", "WARNING")
    return EngineLog(echo=echo, find_name=_engine_of, on_connected=lambda name: _threads[name].process_started())


def _engine_of(pid: int) -> str | None:
    for name, thread in _threads.items():
        if pid in thread.child_ids():
            return name
    return None


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=KILL_TIMEOUT_S)
