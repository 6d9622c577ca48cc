import msgspec
import pytest

from app.commands.doctor.finding import Verdict
from app.commands.doctor.gpu import Card, check_card, check_gpu_memory
from app.commands.sizes import GIB

CARD = Card(name="RTX 4090", driver="580.95.05", capability=(8, 9), total_bytes=24 * GIB, free_bytes=23 * GIB)


def card(**changes):
    return msgspec.structs.replace(CARD, **changes)


def judged(a_card, flavour="gpu", has_engine=True):
    findings = check_card(a_card, flavour=flavour, cuda=13, has_engine=has_engine)
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
        ({"a_card": card(capability=(7, 0))}, Verdict.FAILURE),
        ({"a_card": card(capability=(7, 5))}, Verdict.OK),
        ({"a_card": card(capability=None)}, Verdict.WARNING),
    ],
)
def test_the_card_is_held_against_the_install(world, verdict):
    assert judged(**world)["gpu"] is verdict


@pytest.mark.parametrize(
    ("driver", "verdict"), [("579.1", Verdict.FAILURE), ("580.1", Verdict.OK), ("unknown", Verdict.OK)]
)
def test_the_driver_is_held_against_cuda(driver, verdict):
    assert judged(card(driver=driver))["driver"] is verdict


def test_nothing_is_asked_of_a_driver_for_a_cuda_that_is_not_known():
    findings = check_card(card(driver="1.0", capability=(1, 0)), flavour="gpu", cuda=None, has_engine=True)
    assert {finding.verdict for finding in findings} == {Verdict.OK}


@pytest.mark.parametrize(
    ("shares", "weights", "free", "verdict", "said"),
    [
        ({"embed": 0.25, "generate": 0.65}, {"embed": GIB, "generate": 9 * GIB}, 23, Verdict.OK, "21.6 GiB for"),
        ({"embed": 0.5, "generate": 0.6}, {}, 24, Verdict.FAILURE, "ask for 26.4 GiB, and the card has 24.0 GiB"),
        ({"embed": 0.25, "generate": 0.65}, {}, 20, Verdict.FAILURE, "20.0 GiB of 24.0 GiB free"),
        ({"generate": 0.25}, {"generate": 9 * GIB}, 23, Verdict.FAILURE, "weights take 9.0 GiB"),
        ({"generate": 0.25}, {"generate": None}, 23, Verdict.OK, "6.0 GiB for"),
    ],
)
def test_what_engines_ask_for_is_held_against_the_card(shares, weights, free, verdict, said):
    (finding,) = check_gpu_memory(card(free_bytes=free * GIB), shares, weights)
    assert finding.verdict is verdict
    assert said in finding.found
    assert (finding.advice is None) == (verdict is Verdict.OK)
