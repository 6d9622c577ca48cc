"""Which processes an engine has: real ones, spawned by its thread."""

import subprocess
import sys
import threading

import pytest

pytestmark = pytest.mark.integration

WAIT = "import sys; sys.stdin.read()"
NAMED = "-Wignore::UserWarning:multiprocessing.resource_tracker"
TRACKER = "import sys; main = sys.stdin.read  # from multiprocessing.resource_tracker import main\nmain()"


def test_an_engine_is_seen_whatever_warnings_are_filtered_and_pythons_helper_is_not() -> None:
    # What it imports takes seconds, and only here.
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
