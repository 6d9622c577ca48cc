"""The processes of an engine, with real processes spawned by its thread."""

import subprocess
import sys
import threading

import pytest

pytestmark = pytest.mark.integration

WAIT = "import sys; sys.stdin.read()"
NAMED = "-Wignore::UserWarning:multiprocessing.resource_tracker"
TRACKER = "import sys; main = sys.stdin.read  # from multiprocessing.resource_tracker import main\nmain()"


def test_engine_processes_exclude_only_pythons_resource_tracker() -> None:
    # Importing it takes seconds, so only this test does.
    from adapters.vllm.inprocess.engine import EngineThread

    thread = EngineThread.__new__(EngineThread)
    thread._thread = threading.current_thread()
    with (
        subprocess.Popen([sys.executable, NAMED, "-c", WAIT], stdin=subprocess.PIPE) as engine,
        subprocess.Popen([sys.executable, "-c", TRACKER], stdin=subprocess.PIPE) as helper,
    ):
        found = {process.pid for process in thread.processes()}
        assert engine.pid in found
        assert helper.pid not in found
