import pytest

from app.bootstrap import build_service
from app.engines import inprocess_provider
from app.settings import Settings, load_settings
from domain.errors import BackendUnavailableError, ConfigurationError, ModelNotFoundError
from domain.memory_plan import Card
from domain.port import InferenceBackend
from domain.roles import DEFAULT_ROLES, Role
from domain.units import GIB
from tests.fakes import FakeBackend
from tests.unit.waiting import until

ELSEWHERE = {"EMBED_BACKEND": "vllm-http", "GEN_BACKEND": "vllm-http"}
HERE = __name__
CARD = Card(name="a card", total_bytes=24 * GIB)
RAM = Card(name="this machine", total_bytes=24 * GIB, is_gpu=False)


def factory(role: Role, settings: Settings) -> InferenceBackend:
    """An example of a custom factory."""
    return FakeBackend(role, name=f"{role}-on-{settings.port}")


def mistake(**environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        build_service(load_settings({**ELSEWHERE, **environ}))
    return str(caught.value)


async def test_remote_models_are_served_under_the_configured_names():
    service = build_service(load_settings({**ELSEWHERE, "MODEL_EMBED_NAME": "e", "MODEL_GEN_NAME": "g"}))
    assert [model.id for model in service.catalog.list()] == ["e", "g"]
    with pytest.raises(ModelNotFoundError):
        service.catalog.resolve("x", Role.EMBED, endpoint="v1/embeddings")
    await service.stop()


async def test_remote_servers_may_report_their_models_later():
    service = build_service(load_settings(ELSEWHERE))
    with pytest.raises(BackendUnavailableError):
        service.catalog.resolve("x", Role.EMBED, endpoint="v1/embeddings")
    await service.stop()


@pytest.mark.parametrize("path", [f"{HERE}.factory", f"{HERE}:factory"])
async def test_a_custom_factory_creates_the_backend(path):
    service = build_service(load_settings({"EMBED_BACKEND": path, "GEN_BACKEND": path, "PORT": "9000"}))
    service.start()
    await until(lambda: service.health().status == "ok")
    assert [model.id for model in service.catalog.list()] == ["embed-on-9000", "generate-on-9000"]
    await service.stop()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("EMBED_BACKEND", "no_such_package.factory"),
        ("GEN_BACKEND", f"{HERE}.no_such_factory"),
        ("GEN_BACKEND", f"{HERE}:no_such_factory"),
    ],
)
def test_a_missing_factory_is_reported(name, path):
    message = mistake(**{name: path})
    assert message.startswith(f"{name} is '{path}'")


async def test_changes_of_state_are_reported():
    found = []
    backends = {role: (str(role), FakeBackend(role)) for role in DEFAULT_ROLES}
    service = build_service(
        load_settings({}), backends=backends, on_change=lambda role, health: found.append((role, health.state))
    )
    service.start()
    await until(lambda: len(found) == 2)
    assert sorted(found) == [(Role.EMBED, "ready"), (Role.GENERATE, "ready")]
    await service.stop()


def shares(*roles: Role, card: Card = CARD, **environ: str) -> dict[Role, float]:
    provider = inprocess_provider(load_settings(environ), roles)
    provider.card = card
    return provider.shares_without_plan()


@pytest.mark.parametrize(
    ("memory", "card", "share"),
    [("", CARD, 0.25), ("0.4", CARD, 0.4), ("6GiB", CARD, 0.25), ("6GiB", RAM, None)],
)
def test_an_engines_share_of_the_card(memory, card, share):
    assert shares(Role.EMBED, card=card, VLLM_EMBED_GPU_MEMORY=memory).get(Role.EMBED) == share


def test_all_engines_fit_on_one_card_by_default():
    assert sum(shares(*Role, MODEL_RERANK_NAME="some-reranker").values()) <= 0.95


def test_more_memory_than_the_card_has_is_named():
    with pytest.raises(ConfigurationError, match=r"VLLM_GEN_GPU_MEMORY asks for 30.0 GiB, .* 24.0 GiB"):
        shares(Role.GENERATE, VLLM_GEN_GPU_MEMORY="30GiB")
