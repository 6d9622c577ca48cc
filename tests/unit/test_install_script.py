import importlib.util
import json
import platform
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
FLAVOURS = ["cpu", "gpu", "gateway"]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_script", ROOT / "deploy" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A Linux machine on x86-64 with nothing on its path; say what answers there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")

    def has(tool: str, status: int) -> None:
        (tmp_path / tool).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / tool).chmod(0o755)

    return has


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13), (3, 14)])
def test_a_supported_python_is_accepted(version, monkeypatch):
    monkeypatch.setattr(install, "sys", SimpleNamespace(version_info=(*version, 1)))
    assert install.check_python() is None


@pytest.mark.parametrize("version", [(3, 10), (3, 15), (2, 7), (4, 0)])
def test_another_python_is_refused_with_what_to_do(version, monkeypatch):
    monkeypatch.setattr(install, "sys", SimpleNamespace(version_info=(*version, 1)))
    with pytest.raises(install.InstallError) as caught:
        install.check_python()
    assert f"Python {version[0]}.{version[1]} is not supported" in str(caught.value)
    assert "3.11 to 3.14" in str(caught.value)
    assert "PYTHON=" in str(caught.value)


def test_the_oldest_python_is_the_packages_oldest():
    oldest = ".".join(map(str, install.OLDEST_PYTHON))
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()


def test_a_machine_with_a_gpu_that_answers_gets_the_gpu_list(machine):
    machine("nvidia-smi", 0)
    assert install.choose_flavour("auto") == "gpu"


def test_a_machine_whose_driver_does_not_answer_gets_the_cpu_list(machine):
    machine("nvidia-smi", 9)
    assert install.choose_flavour("auto") == "cpu"


def test_a_machine_without_a_gpu_gets_the_cpu_list(machine):
    assert install.choose_flavour("auto") == "cpu"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_is_asked_for_is_taken(machine, flavour):
    machine("nvidia-smi", 0)
    assert install.choose_flavour(flavour) == flavour


@pytest.mark.parametrize("flavour", ["auto", "cpu", "gpu"])
@pytest.mark.parametrize(("system", "processor"), [("darwin", "arm64"), ("linux", "riscv64")])
def test_a_machine_that_vllm_has_no_build_for_is_told_of_the_gateway(
    machine, monkeypatch, flavour, system, processor
):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    with pytest.raises(install.InstallError) as caught:
        install.choose_flavour(flavour)
    assert f"{system} on {processor}" in str(caught.value)
    assert "INSTALL=gateway" in str(caught.value)
    assert install.choose_flavour("gateway") == "gateway"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_there_is_a_list_for_every_flavour(flavour):
    lists = install.requirement_lists(flavour, True)
    assert [Path(path).name for path in lists] == [f"{flavour}.txt", "test.txt"]
    assert all(Path(path).is_file() for path in lists)
    assert install.requirement_lists(flavour, False) == lists[:1]


@pytest.mark.parametrize("flavour", [*FLAVOURS, "test", "clients"])
def test_every_line_of_a_list_is_one_pinned_version(flavour):
    for line in (ROOT / "deploy" / "requirements" / f"{flavour}.txt").read_text().splitlines():
        assert re.match(r"[A-Za-z0-9._-]+==[^ ;]+( ; .+)?$", line), line


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_lists_that_are_installed_together_agree(flavour):
    # pip refuses two pins of one package outright.
    ours, tests = pins(flavour), pins("test")
    both = ours.keys() & tests.keys()
    assert {name: ours[name] for name in both} == {name: tests[name] for name in both}


def pins(flavour: str) -> dict[str, str]:
    lines = (ROOT / "deploy" / "requirements" / f"{flavour}.txt").read_text().splitlines()
    return dict(line.partition(" ;")[0].split("==") for line in lines)


def test_the_sdk_for_node_is_pinned_by_its_contents_and_by_no_registry():
    manifest, lock = (json.loads(Path(path).read_text()) for path in install.NODE_SDK_PINS)
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert re.fullmatch(r"\d+\.\d+\.\d+", manifest["dependencies"]["openai"])
    assert packages["node_modules/openai"]["version"] == manifest["dependencies"]["openai"]
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A .venv whose interpreter, and so its npm, is a shell script; say what it does."""

    def says(script: str) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "python").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "python").chmod(0o755)

    monkeypatch.setattr(install, "venv_python", lambda: str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(install, "NODE_SDK_FOLDER", str(tmp_path / "node"))
    return says


def test_the_sdk_for_node_is_installed_from_its_pins_outside_the_work_tree(npm, tmp_path):
    npm("echo $3 with * >called")
    install.install_node_sdk()
    assert (tmp_path / "node" / "called").read_text() == "ci with package-lock.json package.json\n"


def test_npms_failure_is_told(npm):
    npm("echo npm error code E404; exit 1")
    with pytest.raises(install.InstallError) as caught:
        install.install_node_sdk()
    assert str(caught.value).startswith("npm failed. Check the network")
    assert str(caught.value).endswith("npm error code E404")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_flavour_has_its_room_told(flavour):
    assert install.DISK_GIB[flavour] > 0
    assert install.MEMORY_GIB[flavour] >= 0


def test_a_fingerprint_is_the_same_until_something_changes():
    prints = [install.fingerprint(flavour, tests) for flavour in FLAVOURS for tests in (False, True)]
    assert prints == [install.fingerprint(flavour, tests) for flavour in FLAVOURS for tests in (False, True)]
    assert len(set(prints)) == 6


ONLY_FOR_TESTS = ["test.txt", "clients.txt", "package.json", "package-lock.json", "browser.py", "browser.json"]


@pytest.mark.parametrize("changed", ["pyproject.toml", "cpu.txt", *ONLY_FOR_TESTS])
def test_a_change_in_whatever_decides_the_install_changes_the_fingerprint(changed, tmp_path, monkeypatch):
    for name in ("pyproject.toml", "cpu.txt", *ONLY_FOR_TESTS):
        (tmp_path / name).write_text("as before")
    monkeypatch.setattr(install, "ROOT", str(tmp_path))
    monkeypatch.setattr(install, "REQUIREMENTS", str(tmp_path))
    monkeypatch.setattr(install, "CLIENT_PINS", str(tmp_path / "clients.txt"))
    monkeypatch.setattr(install, "NODE_SDK_PINS", [str(tmp_path / name) for name in ONLY_FOR_TESTS[2:4]])
    monkeypatch.setattr(install, "BROWSER_SCRIPT", str(tmp_path / "browser.py"))
    monkeypatch.setattr(install, "BROWSER_PINS", [str(tmp_path / "browser.json")])
    before = {with_tests: install.fingerprint("cpu", with_tests) for with_tests in (False, True)}
    (tmp_path / changed).write_text("otherwise")
    assert install.fingerprint("cpu", True) != before[True]
    assert (install.fingerprint("cpu", False) == before[False]) is (changed in ONLY_FOR_TESTS)


def test_another_python_changes_the_fingerprint(monkeypatch):
    before = install.fingerprint("cpu", False)
    monkeypatch.setattr(install, "sys", SimpleNamespace(version_info=(3, 99, 0)))
    assert install.fingerprint("cpu", False) != before


def test_the_stamps_of_an_install_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "STAMP", str(tmp_path / "stamp"))
    assert install.installed_stamps() == set()
    (tmp_path / "stamp").write_text("a\nb")
    assert install.installed_stamps() == {"a", "b"}


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        ("Temporary failure in name resolution", "can't reach its package index"),
        ("NewConnectionError(...)", "can't reach its package index"),
        ("ConnectionError: Connection refused", "can't reach its package index"),
        ("Read timed out.", "can't reach its package index"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for torch==2.13.0+cpu", "no build of a pinned package"),
        ("ERROR: something else", "pip failed"),
    ],
)
def test_pips_failures_are_explained(log, advice):
    said = install.explain(log)
    assert advice in said.splitlines()[0]
    assert said.endswith(log)


def test_only_the_end_of_pips_output_is_told():
    said = install.explain("\n".join(f"line {number}" for number in range(100)))
    assert "line 99" in said
    assert "line 50" not in said


def test_a_bar_tells_each_tenth_once_where_there_is_no_terminal(capsys):
    bar = install.Bar("packages", 40)
    for done in range(41):
        bar.show(done, "a-package")
    bar.close()
    *lines, last = capsys.readouterr().out.splitlines()
    assert [int(re.search(r"(\d+) %", line)[1]) for line in lines] == list(range(0, 101, 10))
    assert "done in" in last


@pytest.mark.parametrize(("total", "done"), [(10, 25), (0, 0), (0, 5)])
def test_a_bar_never_shows_more_than_all(total, done, capsys):
    install.Bar("packages", total).show(done)
    assert int(re.search(r"(\d+) %", capsys.readouterr().out)[1]) <= 100


def test_a_mistake_ends_the_script_with_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["install.py", "--flavour", "cpu"])
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert install.main() == 1
    assert "memoria: vLLM has no pinned build" in capsys.readouterr().err


def test_the_browser_is_installed_by_its_script(npm, tmp_path, capsys):
    npm(f'echo "$1" >"{tmp_path}/called"; echo No browser for these tests.')
    install.install_browser()
    assert (tmp_path / "called").read_text().strip() == install.BROWSER_SCRIPT
    assert "No browser for these tests." in capsys.readouterr().out


def test_a_browser_that_can_not_be_installed_is_told(npm):
    npm("echo npm failed.; exit 1")
    with pytest.raises(install.InstallError) as caught:
        install.install_browser()
    assert str(caught.value) == "npm failed.\nThe same command goes on where it stopped."
