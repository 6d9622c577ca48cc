import msgspec
import pytest

from app.bootstrap import _gpu_share, build_service
from app.settings import GpuMemory, Settings, load_settings
from domain.errors import BackendUnavailableError, ConfigurationError, ModelNotFoundError
from domain.port import InferenceBackend
from domain.roles import Role
from tests.fakes import FakeBackend
from tests.unit.waiting import until

ELSEWHERE = {"EMBED_BACKEND": "vllm-http", "GEN_BACKEND": "vllm-http"}
HERE = __name__


def factory(role: Role, settings: Settings) -> InferenceBackend:
    """What a user's own factory looks like."""
    return FakeBackend(role, name=f"{role}-on-{settings.port}")


def mistake(**environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        build_service(load_settings({**ELSEWHERE, **environ}))
    return str(caught.value)


async def test_servers_elsewhere_are_served_under_the_names_that_are_set():
    service = build_service(load_settings({**ELSEWHERE, "MODEL_EMBED_NAME": "e", "MODEL_GEN_NAME": "g"}))
    assert [model.id for model in service.catalog.list()] == ["e", "g"]
    with pytest.raises(ModelNotFoundError):
        service.catalog.resolve("x", Role.EMBED, endpoint="v1/embeddings")
    await service.stop()


async def test_servers_elsewhere_may_name_their_models_later():
    service = build_service(load_settings(ELSEWHERE))
    with pytest.raises(BackendUnavailableError):
        service.catalog.resolve("x", Role.EMBED, endpoint="v1/embeddings")
    await service.stop()


@pytest.mark.parametrize("path", [f"{HERE}.factory", f"{HERE}:factory"])
async def test_a_factory_of_the_users_own_makes_the_backend(path):
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
def test_a_factory_that_is_not_there_is_named(name, path):
    said = mistake(**{name: path})
    assert said.startswith(f"{name} is '{path}'")


async def test_changes_of_state_are_told():
    told = []
    backends = {role: (str(role), FakeBackend(role)) for role in Role}
    service = build_service(
        load_settings({}), backends=backends, on_change=lambda role, health: told.append((role, health.state))
    )
    service.start()
    await until(lambda: len(told) == 2)
    assert sorted(told) == [(Role.EMBED, "ready"), (Role.GENERATE, "ready")]
    await service.stop()


@pytest.mark.parametrize(
    ("memory", "gpu_gib", "share"),
    [
        (None, 24.0, 0.25),
        (GpuMemory(fraction=0.4), 24.0, 0.4),
        (GpuMemory(gib=6.0), 24.0, 0.25),
        (GpuMemory(gib=6.0), None, None),
    ],
)
def test_an_engines_share_of_the_card(memory, gpu_gib, share):
    own = msgspec.structs.replace(load_settings({}).role(Role.EMBED), gpu_memory=memory)
    assert _gpu_share(Role.EMBED, own, gpu_gib) == share


def test_both_engines_fit_on_one_card_by_default():
    loaded = load_settings({})
    assert sum(_gpu_share(role, loaded.role(role), 24.0) for role in Role) <= 0.95


def test_more_memory_than_the_card_has_is_named():
    own = load_settings({"VLLM_GEN_GPU_MEMORY": "30GiB"}).role(Role.GENERATE)
    with pytest.raises(ConfigurationError, match=r"VLLM_GEN_GPU_MEMORY asks for 30.0 GiB, .* 24.0 GiB"):
        _gpu_share(Role.GENERATE, own, 24.0)
