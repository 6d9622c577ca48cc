import pytest

from app.commands.doctor.configuration import check_exposure, check_settings, mistakes
from app.commands.doctor.finding import Verdict, report, warning
from app.settings import load_settings
from domain.errors import ConfigurationError
from tests.fakes import FakeBackend

HERE = __name__
factory = FakeBackend


def raise_mistakes():
    raise ConfigurationError("ONE is wrong.\nTWO is wrong.")


def findings_of(rules=(), unknown=(), **environ):
    found = check_settings(load_settings(environ), rules, unknown=unknown)
    return [(finding.verdict, finding.found) for finding in found]


def test_every_mistake_is_a_line():
    found = mistakes(ConfigurationError("ONE is wrong.\nTWO is wrong."))
    assert [finding.found for finding in found] == ["ONE is wrong.", "TWO is wrong."]
    assert {finding.verdict for finding in found} == {Verdict.FAILURE}


def test_valid_settings():
    assert findings_of(GEN_BACKEND=f"{HERE}.factory", EMBED_BACKEND=f"{HERE}:factory") == [
        (Verdict.OK, "all are valid")
    ]


def test_all_mistakes_are_reported_together():
    found = findings_of(
        [raise_mistakes, lambda: None, raise_mistakes], ["GPT sets nothing."], GEN_BACKEND="no.such"
    )
    assert [verdict for verdict, _message in found] == [Verdict.WARNING] + 5 * [Verdict.FAILURE]
    assert "GEN_BACKEND is 'no.such'" in found[-1][1]


def test_a_factory_that_fails_to_load_is_reported(tmp_path, monkeypatch):
    (tmp_path / "breaks_at_once.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    ((verdict, message),) = findings_of(GEN_BACKEND="breaks_at_once.factory")
    assert (verdict, "division" in message) == (Verdict.FAILURE, True)


def test_flags_with_an_open_quote_are_reported():
    ((verdict, message),) = findings_of(VLLM_GEN_ARGS="--dtype 'float32")
    assert (verdict, message) == (Verdict.FAILURE, "VLLM_GEN_ARGS: No closing quotation")


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
