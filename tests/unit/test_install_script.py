import importlib.util
import json
import platform
import re
import sys
from collections.abc import Callable
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
    lists = install.requirement_lists(flavour, install.TESTS)
    assert [Path(path).name for path in lists] == [f"{flavour}.txt", "test.txt"]
    assert all(Path(path).is_file() for path in lists)
    assert install.requirement_lists(flavour, install.NOTHING) == lists[:1]


@pytest.mark.parametrize("flavour", [*FLAVOURS, "test", "clients", "agents"])
def test_every_line_of_a_list_is_one_pinned_version(flavour):
    for line in (ROOT / "deploy" / "requirements" / f"{flavour}.txt").read_text().splitlines():
        assert re.match(r"[A-Za-z0-9._-]+==[^ ;]+( ; .+)?$", line), line


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_lists_that_are_installed_together_agree(flavour):
    # uv refuses two pins of one package outright.
    ours, tests = pins(flavour), pins("test")
    both = ours.keys() & tests.keys()
    assert {name: ours[name] for name in both} == {name: tests[name] for name in both}


def pins(flavour: str) -> dict[str, str]:
    lines = (ROOT / "deploy" / "requirements" / f"{flavour}.txt").read_text().splitlines()
    return dict(line.partition(" ;")[0].split("==") for line in lines)


@pytest.mark.parametrize("name", install.NODE_PACKAGES)
def test_packages_for_node_are_pinned_by_their_contents_and_by_no_registry(name):
    folder = Path(install.NODE_PACKAGES[name])
    manifest, lock = (json.loads((folder / pins).read_text()) for pins in install.NODE_PIN_NAMES)
    packages = {name: package for name, package in lock["packages"].items() if name}
    for dependency, version in manifest["dependencies"].items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert packages[f"node_modules/{dependency}"]["version"] == version
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package


@pytest.mark.parametrize("package", ["@openai/codex", "@anthropic-ai/claude-code"])
def test_agents_are_pinned_for_both_processors(package):
    lock = json.loads(Path(install.NODE_PACKAGES["node-agents"], "package-lock.json").read_text())
    for processor in ("x64", "arm64"):
        assert lock["packages"][f"node_modules/{package}-linux-{processor}"]["os"] == ["linux"]


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A .venv whose interpreter, and so its npm, is a shell script; say what it does."""

    def says(script: str) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "python").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "python").chmod(0o755)

    monkeypatch.setattr(install, "venv_python", lambda: str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(install, "VENV", str(tmp_path))
    return says


@pytest.mark.parametrize("name", install.NODE_PACKAGES)
def test_packages_for_node_are_installed_from_their_pins_outside_the_work_tree(npm, tmp_path, name):
    npm("echo $3 $4 with * >called")
    install.install_node_packages(name)
    called = "ci --ignore-scripts with package-lock.json package.json\n"
    assert (tmp_path / name / "called").read_text() == called


def test_npms_failure_is_reported(npm):
    npm("echo npm error code E404; exit 1")
    with pytest.raises(install.InstallError) as caught:
        install.install_node_packages("node-openai")
    assert str(caught.value).startswith("npm failed. Check the network")
    assert str(caught.value).endswith("npm error code E404")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_flavour_has_its_room_told(flavour):
    assert install.DISK_GIB[flavour] > 0
    assert install.MEMORY_GIB[flavour] >= 0


def test_a_fingerprint_is_the_same_until_something_changes():
    prints = [install.fingerprint(flavour, extra) for flavour in FLAVOURS for extra in install.EXTRA_LISTS]
    assert prints == [install.fingerprint(flavour, extra) for flavour in FLAVOURS for extra in install.EXTRA_LISTS]
    assert len(set(prints)) == len(prints)


CLIENT_LISTS = ["clients.txt", "agents.txt"]
NODE_LISTS = ["package.json", "package-lock.json"]
ONLY_FOR_TESTS = ["test.txt", *CLIENT_LISTS, *NODE_LISTS, "browser.py", "browser.json"]


@pytest.mark.parametrize("changed", ["pyproject.toml", "cpu.txt", "run_uv.py", *ONLY_FOR_TESTS])
def test_a_change_in_whatever_decides_the_install_changes_the_fingerprint(changed, tmp_path, monkeypatch):
    for name in ("pyproject.toml", "cpu.txt", "unit.txt", "run_uv.py", *ONLY_FOR_TESTS):
        (tmp_path / name).write_text("as before")
    monkeypatch.setattr(install, "ROOT", str(tmp_path))
    monkeypatch.setattr(install, "REQUIREMENTS", str(tmp_path))
    monkeypatch.setattr(install, "RUN_UV", str(tmp_path / "run_uv.py"))
    monkeypatch.setattr(install, "CLIENT_PINS", {name: str(tmp_path / name) for name in CLIENT_LISTS})
    monkeypatch.setattr(install, "NODE_PINS", [str(tmp_path / name) for name in NODE_LISTS])
    monkeypatch.setattr(install, "BROWSER_SCRIPT", str(tmp_path / "browser.py"))
    monkeypatch.setattr(install, "BROWSER_PINS", [str(tmp_path / "browser.json")])
    before = {extra: install.fingerprint("cpu", extra) for extra in install.EXTRA_LISTS}
    (tmp_path / changed).write_text("otherwise")
    assert install.fingerprint("cpu", install.TESTS) != before[install.TESTS]
    unchanged = install.fingerprint("cpu", install.NOTHING) == before[install.NOTHING]
    assert unchanged is (changed in ONLY_FOR_TESTS)


def test_the_tests_list_has_all_that_the_unit_tests_need():
    lists = [Path(install.REQUIREMENTS, f"{name}.txt").read_text().split() for name in ("unit", "test")]
    assert set(lists[0]) <= set(lists[1])


def test_another_python_changes_the_fingerprint(monkeypatch):
    before = install.fingerprint("cpu", install.NOTHING)
    monkeypatch.setattr(install, "sys", SimpleNamespace(version_info=(3, 99, 0)))
    assert install.fingerprint("cpu", install.NOTHING) != before


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
    said = install.explain_pip(log)
    assert advice in said.splitlines()[0]
    assert said.endswith(log)


def test_only_the_end_of_pips_output_is_told():
    said = install.explain_pip("\n".join(f"line {number}" for number in range(100)))
    assert "line 99" in said
    assert "line 50" not in said


@pytest.fixture
def uv(tmp_path, monkeypatch):
    """A .venv whose interpreter writes down each call and answers with a status; return what was called."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    monkeypatch.setattr(install, "venv_python", lambda folder=None: str(python))
    monkeypatch.setattr(install, "ROOT", str(tmp_path))

    def calls(action: Callable[[], None], failing: str = "nothing") -> list[str]:
        python.write_text(f'#!/bin/sh\necho "$*" >>called\ncase "$*" in *{failing}*) exit 1;; esac\n')
        python.chmod(0o755)
        action()
        return (tmp_path / "called").read_text().splitlines()

    return calls


def test_pytorch_for_the_cpu_is_installed_with_the_rest_where_a_configured_index_has_it(uv):
    asked, installed = uv(lambda: install.install_packages("cpu", extra=install.TESTS))
    assert asked.endswith(f"--dry-run --quiet {install.TORCH_CPU}")
    assert installed.endswith(f"requirements/cpu.txt -r {install.REQUIREMENTS}/test.txt {install.TORCH_CPU}")
    assert "--no-deps" in installed
    assert "index" not in installed


def test_pytorch_alone_comes_from_its_own_index_where_no_configured_one_has_it(uv):
    _, torch, others = uv(lambda: install.install_packages("cpu", extra=install.NOTHING), failing="--dry-run")
    assert torch.endswith(f"{install.TORCH_CPU} --default-index {install.TORCH_CPU_INDEX}")
    assert others.endswith("requirements/cpu.txt")
    assert "index" not in others


@pytest.mark.parametrize("flavour", ["gpu", "gateway"])
def test_other_lists_are_installed_in_one_call(flavour, uv):
    (installed,) = uv(lambda: install.install_packages(flavour, extra=install.NOTHING))
    assert installed.endswith(f"-r {install.REQUIREMENTS}/{flavour}.txt")


def test_uvs_failure_ends_with_what_failed_and_what_to_check(uv):
    with pytest.raises(install.InstallError) as caught:
        uv(lambda: install.install_packages("gateway", extra=install.NOTHING), failing="gateway.txt")
    assert str(caught.value).startswith("uv could not install: packages (gateway).")
    assert "pip config list" in str(caught.value)


def test_what_an_interrupted_install_left_incomplete_is_installed_again(tmp_path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    left = {
        "complete": {"INSTALLER": "uv", "RECORD": "a.py,,\n"},
        "without_installer": {"RECORD": "a.py,,\n"},
        "without_record": {"INSTALLER": "uv"},
        "with_part_of_its_record": {"INSTALLER": "uv", "RECORD": "a.py,,\nb"},
    }
    for name, files in left.items():
        (packages / f"{name}-1.dist-info").mkdir(parents=True)
        for file, content in files.items():
            (packages / f"{name}-1.dist-info" / file).write_text(content)
    install.discard_incomplete(str(tmp_path))
    assert [path.name for path in packages.iterdir()] == ["complete-1.dist-info"]


@pytest.mark.parametrize(("resource", "text"), [("disk", "GiB of disk are free"), ("memory", "GiB of memory")])
def test_too_little_room_is_refused_before_anything_is_installed(resource, text, monkeypatch):
    free = {"disk": 100 * 2**30, "memory": 100 * 2**30} | {resource: 2**28}
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: SimpleNamespace(free=free["disk"]))
    monkeypatch.setattr(install.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1}.get(name, free["memory"]))
    with pytest.raises(install.InstallError, match=text):
        install.check_room("cpu")


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
    assert str(caught.value) == "npm failed.\nThe same command continues where it stopped."
