import socket

import pytest

from app.commands.doctor.finding import Verdict
from app.commands.doctor.servers import Answer, ask, check_servers
from domain.roles import Role
from tests.unit.doctor.stand_in import answering

MODELS = {"/v1/models": (200, b'{"object":"list","data":[{"id":"m","object":"model"}]}')}


@pytest.fixture
def unused_address():
    """An address on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def findings_of(answers, model=None):
    return [(finding.verdict, finding.found) for finding in check_servers(Role.EMBED, answers, model=model)]


@pytest.mark.parametrize("suffix", ["", "/v1"])
def test_a_server_that_serves(suffix):
    with answering(MODELS) as url:
        (answer,) = ask([url + suffix], api_key=None, timeout_s=5)
    assert answer == Answer(address=url, status=200, models=("m",))
    assert findings_of([answer], "m") == [(Verdict.OK, f"{url} serves m")]
    assert findings_of([answer], None) == [(Verdict.OK, f"{url} serves m")]


def test_a_server_without_the_model():
    answer = Answer(address="http://a", status=200, models=("m", "n"))
    assert findings_of([answer], "x") == [(Verdict.FAILURE, "http://a serves m, n, not x")]


@pytest.mark.parametrize(
    ("key", "verdict"), [("right", Verdict.OK), ("wrong", Verdict.FAILURE), (None, Verdict.FAILURE)]
)
def test_a_server_that_requires_a_key(key, verdict):
    with answering(MODELS, key="right") as url:
        findings = check_servers(Role.EMBED, ask([url], api_key=key, timeout_s=5), model="m")
    assert [finding.verdict for finding in findings] == [verdict]
    if verdict is Verdict.FAILURE:
        assert "VLLM_EMBED_API_KEY" in findings[0].advice


@pytest.mark.parametrize("answer", [(404, b"{}"), (200, b"<html>"), (200, b'{"data":[]}'), (500, b"")])
def test_another_server_on_the_port(answer):
    with answering({"/v1/models": answer}) as url:
        ((verdict, message),) = findings_of(ask([url], api_key=None, timeout_s=5))
    assert verdict is Verdict.FAILURE
    assert f"status {answer[0]}" in message


def test_one_usable_server_is_enough(unused_address):
    with answering(MODELS) as url:
        answers = ask([unused_address, url], api_key=None, timeout_s=5)
    assert [verdict for verdict, _message in findings_of(answers)] == [Verdict.WARNING, Verdict.OK]


def test_no_server_is_a_failure(unused_address):
    ((verdict, message),) = findings_of(ask([unused_address], api_key=None, timeout_s=5))
    assert verdict is Verdict.FAILURE
    assert f"{unused_address} does not answer" in message
