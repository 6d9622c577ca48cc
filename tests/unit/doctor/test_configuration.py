import pytest

from app.commands.doctor.configuration import check_exposure, check_settings, mistakes
from app.commands.doctor.finding import Verdict, report, warning
from app.settings import load_settings
from domain.errors import ConfigurationError
from tests.fakes import FakeBackend

HERE = __name__
factory = FakeBackend


def complaint():
    raise ConfigurationError("ONE is wrong.\nTWO is wrong.")


def judged(rules=(), unknown=(), **environ):
    found = check_settings(load_settings(environ), rules, unknown=unknown)
    return [(finding.verdict, finding.found) for finding in found]


def test_every_mistake_is_a_line():
    found = mistakes(ConfigurationError("ONE is wrong.\nTWO is wrong."))
    assert [finding.found for finding in found] == ["ONE is wrong.", "TWO is wrong."]
    assert {finding.verdict for finding in found} == {Verdict.FAILURE}


def test_settings_that_can_be_used():
    assert judged(GEN_BACKEND=f"{HERE}.factory", EMBED_BACKEND=f"{HERE}:factory") == [
        (Verdict.OK, "all can be used")
    ]


def test_what_the_service_refuses_is_told_at_once():
    found = judged([complaint, lambda: None, complaint], ["GPT sets nothing."], GEN_BACKEND="no.such")
    assert [verdict for verdict, _said in found] == [Verdict.WARNING] + 5 * [Verdict.FAILURE]
    assert "GEN_BACKEND is 'no.such'" in found[-1][1]


def test_a_factory_that_breaks_when_it_is_loaded_is_told(tmp_path, monkeypatch):
    (tmp_path / "breaks_at_once.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    ((verdict, said),) = judged(GEN_BACKEND="breaks_at_once.factory")
    assert (verdict, "division" in said) == (Verdict.FAILURE, True)


def test_flags_with_an_open_quote_are_told():
    ((verdict, said),) = judged(VLLM_GEN_ARGS="--dtype 'float32")
    assert (verdict, said) == (Verdict.FAILURE, "VLLM_GEN_ARGS: No closing quotation")


@pytest.mark.parametrize(
    ("host", "has_keys", "has_tls", "verdict"),
    [
        ("127.0.0.1", False, False, Verdict.OK),
        ("127.0.1.1", False, False, Verdict.OK),
        ("localhost", False, False, Verdict.OK),
        ("::1", False, False, Verdict.OK),
        ("0.0.0.0", False, False, Verdict.WARNING),
        ("0.0.0.0", True, False, Verdict.WARNING),
        ("0.0.0.0", True, True, Verdict.OK),
    ],
)
def test_who_can_reach_the_service(host, has_keys, has_tls, verdict):
    assert check_exposure(host, has_keys=has_keys, has_tls=has_tls).verdict is verdict


def test_the_worst_finding_counts():
    line = warning("a", "b", "c")
    assert report([]).verdict is Verdict.OK
    assert report([line]).verdict is Verdict.WARNING
    assert report([line, *mistakes(ConfigurationError("x"))]).verdict is Verdict.FAILURE
