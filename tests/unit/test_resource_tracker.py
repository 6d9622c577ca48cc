"""Python's resource tracker is distinguished from engines and workers."""

import sys
from multiprocessing import resource_tracker
from types import SimpleNamespace

import psutil
import pytest

from adapters.resource_tracker import is_resource_tracker


@pytest.mark.parametrize(
    ("command", "is_it"),
    [
        (["python", "-c", "from multiprocessing.resource_tracker import main;main(5)"], True),
        (["python", "-Wignore::UserWarning:multiprocessing.resource_tracker", "-c", "spawn_main()"], False),
        ([], False),
    ],
)
def test_it_is_recognized_by_its_code(command, is_it):
    assert is_resource_tracker(SimpleNamespace(cmdline=lambda: command)) is is_it


def test_pythons_resource_tracker_is_recognized():
    resource_tracker.ensure_running()
    (tracker,) = [child for child in psutil.Process().children() if is_resource_tracker(child)]
    assert tracker.pid == resource_tracker._resource_tracker._pid


def test_an_ended_process_raises():
    gone = psutil.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(psutil.Error):
        is_resource_tracker(gone)
