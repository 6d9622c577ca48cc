import pytest

from domain.catalog import ModelCatalog, ServedModel
from domain.errors import BackendUnavailableError, ModelNotFoundError, WrongEndpointError
from domain.policies.supervision import SupervisionBackend
from domain.roles import DEFAULT_ROLES, Role
from tests.fakes import FakeBackend


def served(role: Role, name: str | None, *aliases: str) -> ServedModel:
    # The engine reports the name "real" after its start.
    backend = SupervisionBackend(FakeBackend(role, name="real"), role, model=name)
    return ServedModel(backend, name=name, aliases=aliases)


ENDPOINTS = {Role.EMBED: "v1/embeddings", Role.GENERATE: "v1/chat/completions"}


def resolve(models: ModelCatalog, name: str, role: Role) -> ServedModel:
    return models.resolve(name, role, endpoint=ENDPOINTS[role])


def catalog(*models: ServedModel) -> ModelCatalog:
    pair = models or (served(Role.EMBED, "embedder", "ada"), served(Role.GENERATE, "writer", "davinci"))
    return ModelCatalog(list(pair), created=7)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("embedder", Role.EMBED),
        ("ada", Role.EMBED),
        ("writer", Role.GENERATE),
        ("davinci", Role.GENERATE),
    ],
)
def test_a_model_is_found_by_name_and_alias(name, role):
    assert resolve(catalog(), name, role).role is role


def test_a_name_of_both_roles_resolves_to_the_requested_role():
    both = catalog(served(Role.EMBED, "e", "default"), served(Role.GENERATE, "g", "default"))
    assert [resolve(both, "default", role).name for role in DEFAULT_ROLES] == ["e", "g"]


def test_a_model_of_another_role_is_a_wrong_endpoint():
    with pytest.raises(WrongEndpointError) as caught:
        resolve(catalog(), "ada", Role.GENERATE)
    assert caught.value.param == "model"
    assert "embedding model" in caught.value.message
    assert "Use it with v1/embeddings." in caught.value.message


@pytest.mark.parametrize("endpoint", ["v1/chat/completions", "v1/completions"])
def test_the_error_names_the_requested_endpoint(endpoint):
    with pytest.raises(WrongEndpointError) as caught:
        catalog().resolve("ada", Role.GENERATE, endpoint=endpoint)
    assert f"not supported in the {endpoint} endpoint" in caught.value.message


def test_the_error_names_both_generation_endpoints():
    with pytest.raises(WrongEndpointError) as caught:
        resolve(catalog(), "writer", Role.EMBED)
    assert "Use it with v1/chat/completions or v1/completions." in caught.value.message


@pytest.mark.parametrize(("name", "found"), [(None, "writer"), ("ada", "embedder"), ("davinci", "writer")])
def test_find_ignores_the_role_and_defaults_to_generation(name, found):
    assert catalog().find(name).name == found


def test_an_unknown_name_is_not_found():
    with pytest.raises(ModelNotFoundError) as caught:
        catalog().find("gpt")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_an_empty_name_is_not_found():
    with pytest.raises(ModelNotFoundError):
        catalog().find("")


def test_the_error_for_an_unknown_name_lists_the_served_models():
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(catalog(), "gpt", Role.GENERATE)
    assert caught.value.param == "model"
    assert "'gpt'" in caught.value.message
    assert "'embedder', 'writer'" in caught.value.message


def test_names_are_case_sensitive():
    with pytest.raises(ModelNotFoundError):
        resolve(catalog(), "Writer", Role.GENERATE)


def test_an_unknown_name_may_belong_to_an_engine_that_is_still_starting():
    starting = catalog(served(Role.EMBED, None), served(Role.GENERATE, "writer"))
    with pytest.raises(BackendUnavailableError) as caught:
        resolve(starting, "anything", Role.EMBED)
    assert caught.value.retry_after_s
    with pytest.raises(BackendUnavailableError):
        starting.get("anything")


def test_a_configured_name_is_known_before_the_engine_starts():
    starting = catalog(served(Role.EMBED, None, "ada"), served(Role.GENERATE, "writer"))
    assert resolve(starting, "writer", Role.GENERATE).name == "writer"
    assert resolve(starting, "ada", Role.EMBED).name is None


async def test_a_started_engine_provides_the_models_name():
    model = served(Role.EMBED, None, "ada")
    await model.backend.start()
    try:
        assert model.names == ("real", "ada")
        assert resolve(catalog(model), "real", Role.EMBED) is model
        with pytest.raises(ModelNotFoundError):
            catalog(model).get("anything")
    finally:
        await model.backend.stop()


def test_every_name_is_listed():
    listed = catalog().list()
    assert [model.id for model in listed] == ["embedder", "ada", "writer", "davinci"]
    assert {(model.object, model.created) for model in listed} == {("model", 7)}


def test_only_aliases_of_an_unnamed_model_are_listed():
    assert [model.id for model in catalog(served(Role.EMBED, None, "ada")).list()] == ["ada"]


async def test_a_started_model_is_listed_with_its_context_length():
    model = served(Role.EMBED, "real", "ada")
    await model.backend.start()
    try:
        assert [(one.id, one.max_model_len) for one in catalog(model).list()] == [("real", 256), ("ada", 256)]
    finally:
        await model.backend.stop()


def test_a_model_can_be_retrieved_under_any_of_its_names():
    assert catalog().get("davinci").id == "davinci"
    assert catalog().get("writer").id == "writer"


def test_an_unknown_model_can_not_be_retrieved():
    with pytest.raises(ModelNotFoundError) as caught:
        catalog().get("gpt")
    assert caught.value.param == "model"


def test_models_can_be_listed_by_role():
    names = [model.id for model in catalog().list(Role.GENERATE)]
    assert names
    assert set(names) < {model.id for model in catalog().list()}
