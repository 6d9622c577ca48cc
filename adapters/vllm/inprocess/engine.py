"""The life of one AsyncLLM: built, used and ended by a thread of its own."""

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
from adapters.vllm.inprocess.executors import owned
from adapters.vllm.inprocess.statistics import EngineStatistics, stat_loggers
from domain.errors import BackendFailedError
from domain.port import StepListener, ignore_step

SHUTDOWN_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 5.0
LOG_TIMEOUT_S = 2.0


class EngineThread:
    """Starts an engine without blocking the event loop, and leaves no process of it behind.

    Building an AsyncLLM blocks for the better part of a minute, hence a thread. The same thread stays until
    the engine has ended: the kernel ties engine processes to the thread that spawned them (`owner.py`), and
    it lists a thread's children apart, so that a start can be broken off half-way and only the processes of
    this engine are ended.
    """

    def __init__(self, config: VllmConfig, *, name: str, statistics: EngineStatistics | None = None) -> None:
        """Make it; nothing starts yet.

        Args:
            config: vLLM's configuration.
            name: the model's name for clients.
            statistics: where the engine counts what it does; None if it shall not.
        """
        self._config = config
        self._name = name
        self._statistics = statistics
        _threads[name] = self
        self._built: Future[AsyncLLM] = Future()
        self._stop = threading.Event()
        self._process_is_up: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)

    async def start(self, on_step: StepListener = ignore_step) -> AsyncLLM:
        """Build the engine; return when it can take requests.

        Args:
            on_step: told what takes its time.

        Raises:
            BackendFailedError: it could not start.
        """
        loop = asyncio.get_running_loop()
        self._process_is_up = lambda: loop.call_soon_threadsafe(on_step, "loading the model")
        on_step("starting its process")
        engine_log().forget(self._name)
        self._thread.start()
        try:
            # Shielded: a cancelled wait must not cancel what the thread is about to report.
            return await asyncio.shield(asyncio.wrap_future(self._built))
        except asyncio.CancelledError:
            self._stop.set()
            raise
        except Exception as error:
            raise BackendFailedError(
                f"The engine of '{self._name}' could not start: {self._reason(error)} "
                "Set ENGINE_LOG_LEVEL=info to see all that it says."
            ) from error

    async def stop(self) -> None:
        """End the engine and all its processes, whatever state they are in."""
        self._silence_output_handler()
        self._stop.set()
        if not self._thread.is_alive():
            return
        if not self._built.done():
            # The thread is deep inside the constructor, waiting for processes that are still starting:
            # their end is what ends the wait.
            while self._thread.is_alive() and not self._built.done():
                await asyncio.to_thread(self.kill)
                await asyncio.sleep(0.1)
        await asyncio.to_thread(self._thread.join, SHUTDOWN_TIMEOUT_S + 2 * KILL_TIMEOUT_S)

    def processes(self) -> list[psutil.Process]:
        """Engine processes, children before grandchildren; empty once the engine has ended."""
        found: list[psutil.Process] = []
        for pid in self.child_ids():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                # Python's resource tracker is everybody's; it ends by itself when this process does.
                if not is_resource_tracker(process):
                    found.append(process)
                    found += process.children(recursive=True)
        return found

    def process_is_up(self) -> None:
        """Told by the log when an engine process has loaded its libraries, in any thread."""
        if not self._built.done():
            # The event loop may have ended meanwhile, and then nobody wants to know.
            with contextlib.suppress(RuntimeError):
                self._process_is_up()

    def child_ids(self) -> list[int]:
        """Ids of the processes that this thread has spawned and that have not been waited for."""
        try:
            children = Path(f"/proc/self/task/{self._thread.native_id}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in children.split()]

    def _reason(self, error: Exception) -> str:
        told = engine_log().reason(self._name) or str(error) or type(error).__name__
        return told if told.endswith((".", "!")) else f"{told}."

    def _silence_output_handler(self) -> None:
        """Cancel the task that listens to the engine: it would report the engine's end as a failure."""
        if self._built.done() and self._built.exception() is None:
            handler = self._built.result().output_handler
            if handler is not None:
                handler.cancel()

    def _run(self) -> None:
        # Inherited by the engine's processes: Ctrl-C at a terminal reaches the service alone, which then
        # ends them in order.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            engine = AsyncLLM(
                vllm_config=self._config,
                executor_class=owned(
                    Executor.get_class(self._config),
                    on_cpu=current_platform.is_cpu(),
                    workers=self._config.parallel_config.world_size,
                ),
                # vLLM's own counters cost a sixth of what a token costs here; ours are there all the same.
                log_stats=False,
                stat_loggers=stat_loggers(self._config, self._statistics),
                log_requests=False,
            )
        except BaseException as error:
            self.kill()
            # What it said last, the reason as a rule, may still be on its way.
            engine_log().wait_for_end(self._name, LOG_TIMEOUT_S)
            self._built.set_exception(error)
            return
        self._built.set_result(engine)
        self._stop.wait()
        processes = self.processes()
        with contextlib.suppress(Exception):
            engine.shutdown(timeout=SHUTDOWN_TIMEOUT_S)
        # An AsyncLLM that lives on until the interpreter ends stumbles in its own destructor.
        self._built = Future()
        del engine
        _kill(processes)

    def kill(self) -> None:
        """End the engine's processes at once; vLLM then tells everybody who waits for it. Blocks for a moment."""
        _kill(self.processes())


_threads: dict[str, EngineThread] = {}
"""All engines of this process, by name."""


@functools.cache
def engine_log() -> EngineLog:
    """The log of all engines of this process, opened by the first that starts."""
    # vLLM's own setting decides what is printed at all; below a warning nobody asked to see the lines.
    echo = os.environ.get("VLLM_LOGGING_LEVEL", "INFO") in ("DEBUG", "INFO", "WARNING")
    return EngineLog(echo=echo, find_name=_engine_of, on_connected=lambda name: _threads[name].process_is_up())


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
