import msgspec
import pytest

from app.commands.doctor.finding import Verdict
from app.commands.doctor.gpu import check_card, check_gpu_memory
from domain.memory_plan import Card
from domain.roles import Role
from domain.units import GIB

EMBED, GENERATE = Role.EMBED, Role.GENERATE
CARD = Card(name="RTX 4090", capability="8.9", total_bytes=24 * GIB, used_bytes=GIB)


def card(**changes):
    return msgspec.structs.replace(CARD, **changes)


def verdicts_of(a_card, flavor="gpu", has_engine=True, driver="580.95.05"):
    findings = check_card(a_card, driver=driver, flavor=flavor, cuda=13, has_engine=has_engine)
    return {finding.check: finding.verdict for finding in findings}


def test_a_card_that_fits():
    assert verdicts_of(CARD) == {"driver": Verdict.OK, "gpu": Verdict.OK}


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        ({"a_card": None}, Verdict.FAILURE),
        ({"a_card": None, "flavor": "cpu"}, Verdict.OK),
        ({"a_card": CARD, "flavor": "cpu"}, Verdict.WARNING),
        ({"a_card": None, "has_engine": False}, Verdict.OK),
        ({"a_card": card(capability="7.0")}, Verdict.FAILURE),
        ({"a_card": card(capability="7.5")}, Verdict.OK),
        ({"a_card": card(capability=None)}, Verdict.WARNING),
    ],
)
def test_the_gpu_is_compared_with_the_install(arguments, verdict):
    assert verdicts_of(**arguments)["gpu"] is verdict


@pytest.mark.parametrize(
    ("driver", "verdict"), [("579.1", Verdict.FAILURE), ("580.1", Verdict.OK), ("unknown", Verdict.OK)]
)
def test_the_driver_is_compared_with_cuda(driver, verdict):
    assert verdicts_of(CARD, driver=driver)["driver"] is verdict


def test_without_a_cuda_version_any_driver_is_accepted():
    findings = check_card(card(capability="1.0"), driver="1.0", flavor="gpu", cuda=None, has_engine=True)
    assert {finding.verdict for finding in findings} == {Verdict.OK}


@pytest.mark.parametrize(
    ("shares", "weights", "free", "verdict", "message"),
    [
        (
            {EMBED: 0.25, GENERATE: 0.65},
            {EMBED: GIB, GENERATE: 9 * GIB},
            23,
            Verdict.OK,
            "21.6 GiB for",
        ),
        (
            {EMBED: 0.5, GENERATE: 0.6},
            {},
            24,
            Verdict.FAILURE,
            "request 26.4 GiB, but the GPU has 24.0 GiB",
        ),
        ({EMBED: 0.25, GENERATE: 0.65}, {}, 20, Verdict.FAILURE, "20.0 GiB of 24.0 GiB free"),
        ({GENERATE: 0.25}, {GENERATE: 9 * GIB}, 23, Verdict.FAILURE, "weights take 9.0 GiB"),
        ({GENERATE: 0.25}, {GENERATE: None}, 23, Verdict.OK, "6.0 GiB for"),
    ],
)
def test_requested_memory_is_compared_with_the_gpu(shares, weights, free, verdict, message):
    (finding,) = check_gpu_memory(card(used_bytes=(24 - free) * GIB), shares, weights)
    assert finding.verdict is verdict
    assert message in finding.found
    assert (finding.advice is None) == (verdict is Verdict.OK)
