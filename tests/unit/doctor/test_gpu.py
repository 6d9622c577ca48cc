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


def judged(a_card, flavour="gpu", has_engine=True, driver="580.95.05"):
    findings = check_card(a_card, driver=driver, flavour=flavour, cuda=13, has_engine=has_engine)
    return {finding.check: finding.verdict for finding in findings}


def test_a_card_that_fits():
    assert judged(CARD) == {"driver": Verdict.OK, "gpu": Verdict.OK}


@pytest.mark.parametrize(
    ("world", "verdict"),
    [
        ({"a_card": None}, Verdict.FAILURE),
        ({"a_card": None, "flavour": "cpu"}, Verdict.OK),
        ({"a_card": CARD, "flavour": "cpu"}, Verdict.WARNING),
        ({"a_card": None, "has_engine": False}, Verdict.OK),
        ({"a_card": card(capability="7.0")}, Verdict.FAILURE),
        ({"a_card": card(capability="7.5")}, Verdict.OK),
        ({"a_card": card(capability=None)}, Verdict.WARNING),
    ],
)
def test_the_card_is_held_against_the_install(world, verdict):
    assert judged(**world)["gpu"] is verdict


@pytest.mark.parametrize(
    ("driver", "verdict"), [("579.1", Verdict.FAILURE), ("580.1", Verdict.OK), ("unknown", Verdict.OK)]
)
def test_the_driver_is_held_against_cuda(driver, verdict):
    assert judged(CARD, driver=driver)["driver"] is verdict


def test_nothing_is_asked_of_a_driver_for_a_cuda_that_is_not_known():
    findings = check_card(card(capability="1.0"), driver="1.0", flavour="gpu", cuda=None, has_engine=True)
    assert {finding.verdict for finding in findings} == {Verdict.OK}


@pytest.mark.parametrize(
    ("shares", "weights", "free", "verdict", "said"),
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
            "ask for 26.4 GiB, and the card has 24.0 GiB",
        ),
        ({EMBED: 0.25, GENERATE: 0.65}, {}, 20, Verdict.FAILURE, "20.0 GiB of 24.0 GiB free"),
        ({GENERATE: 0.25}, {GENERATE: 9 * GIB}, 23, Verdict.FAILURE, "weights take 9.0 GiB"),
        ({GENERATE: 0.25}, {GENERATE: None}, 23, Verdict.OK, "6.0 GiB for"),
    ],
)
def test_what_engines_ask_for_is_held_against_the_card(shares, weights, free, verdict, said):
    (finding,) = check_gpu_memory(card(used_bytes=(24 - free) * GIB), shares, weights)
    assert finding.verdict is verdict
    assert said in finding.found
    assert (finding.advice is None) == (verdict is Verdict.OK)
