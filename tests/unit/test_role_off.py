"""The service with one role switched off."""

import re

import pytest

from adapters.models.hardware import ram
from app.api_processes import require_gateway
from app.bootstrap import build_service
from app.engines import inprocess_provider, prepare_models
from app.settings import load_settings
from app.telemetry.setup import build_metrics
from domain.errors import ConfigurationError
from domain.roles import DEFAULT_ROLES, ROLES, Role
from tests.fakes import FakeBackend
from tests.unit.serving import BODIES, CHAT, COMPLETE, DETOKENIZE, EMBED, TOKENIZE, Api, error_of, serving
from tests.unit.waiting import until

OFF = {role: {f"{ROLES[role].prefix}_BACKEND": "off"} for role in DEFAULT_ROLES}
NAMES = {Role.EMBED: "fake-embed", Role.GENERATE: "fake-write"}
OTHER = {Role.EMBED: Role.GENERATE, Role.GENERATE: Role.EMBED}
PATHS = {Role.EMBED: [EMBED], Role.GENERATE: [COMPLETE, CHAT]}
ASKED = [(role, path) for role, paths in PATHS.items() for path in paths]


def test_settings_hold_the_roles_that_are_switched_on_in_the_tables_order():
    assert list(load_settings({}).roles) == list(DEFAULT_ROLES)
    for role in DEFAULT_ROLES:
        loaded = load_settings(OFF[role])
        assert list(loaded.roles) == [OTHER[role]]
        with pytest.raises(KeyError):
            loaded.role(role)


def test_a_service_without_any_role_is_a_mistake():
    with pytest.raises(ConfigurationError) as caught:
        load_settings(OFF[Role.EMBED] | OFF[Role.GENERATE])
    message = str(caught.value)
    assert message.startswith("EMBED_BACKEND and GEN_BACKEND are off")
    assert "Set one of them to vllm-inprocess or vllm-http, or name a model with MODEL_RERANK_NAME." in message


def test_settings_of_a_role_that_is_off_are_validated_too():
    with pytest.raises(ConfigurationError, match=r"^EMBED_MAX_RUNNING is"):
        load_settings(OFF[Role.EMBED] | {"EMBED_MAX_RUNNING": "x"})


@pytest.mark.parametrize("off", DEFAULT_ROLES)
async def test_health_models_and_status_have_only_the_other_role(off):
    on = OTHER[off]
    async with serving(Api(settings=OFF[off])) as api:
        await until(lambda: api.is_ready)
        health = await api.http.get("/health")
        assert health.status_code == 200
        assert list(health.json()["backends"]) == [on]
        assert (await api.http.get("/health/ready")).status_code == 200
        models = [model["id"] for model in (await api.http.get("/v1/models")).json()["data"]]
        assert models[0] == NAMES[on]
        assert NAMES[off] not in models
        assert list((await api.http.get("/status")).json()["health"]["backends"]) == [on]


@pytest.mark.parametrize("off", DEFAULT_ROLES)
async def test_the_other_role_is_served_as_usual(off):
    async with serving(Api(settings=OFF[off])) as api:
        await until(lambda: api.is_ready)
        for path in PATHS[OTHER[off]]:
            assert (await api.post(path)).status_code == 200


@pytest.mark.parametrize(("off", "path"), ASKED)
async def test_its_endpoints_name_the_setting_that_switches_it_on(off, path):
    async with serving(Api(settings=OFF[off])) as api:
        await until(lambda: api.is_ready)
        answer = await api.post(path)
        error = error_of(answer)
        assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        info = ROLES[off]
        assert f"No {info.noun} model is served, because {info.prefix}_BACKEND is off." in error["message"]
        assert error["message"].endswith(f"Served models: '{NAMES[OTHER[off]]}'.")


@pytest.mark.parametrize(("off", "path"), ASKED)
async def test_its_endpoints_report_that_while_the_other_engine_starts(off, path):
    api = Api(settings=OFF[off])
    assert (await api.post(path)).status_code == 404
    await api.http.aclose()


@pytest.mark.parametrize(("off", "path"), ASKED)
async def test_the_other_model_is_rejected_in_its_endpoints_as_usual(off, path):
    async with serving(Api(settings=OFF[off])) as api:
        await until(lambda: api.is_ready)
        answer = await api.http.post(path, json=BODIES[path] | {"model": NAMES[OTHER[off]]})
        assert "Use it with" in error_of(answer)["message"]


@pytest.mark.parametrize("path", [TOKENIZE, DETOKENIZE])
async def test_without_a_name_and_a_generation_model_there_is_nothing_to_tokenize_with(path):
    async with serving(Api(settings=OFF[Role.GENERATE])) as api:
        await until(lambda: api.is_ready)
        body = {name: value for name, value in BODIES[path].items() if name != "model"}
        answer = await api.http.post(path, json=body)
        assert answer.status_code == 404
        assert "GEN_BACKEND" in error_of(answer)["message"]
        assert (await api.http.post(path, json=body | {"model": "fake-embed"})).status_code == 200


@pytest.mark.parametrize("off", DEFAULT_ROLES)
async def test_there_is_no_engine_to_restart(off):
    async with serving(Api(settings=OFF[off])) as api:
        answer = await api.http.post(f"/admin/engines/{off}/restart")
        assert answer.status_code == 400
        assert error_of(answer)["message"].endswith(f"Engines are: {OTHER[off]}.")


@pytest.mark.parametrize("off", DEFAULT_ROLES)
async def test_metrics_have_only_the_other_role(off):
    on = OTHER[off]
    loaded = load_settings(OFF[off])
    metrics = build_metrics(loaded, build_service(loaded, backends={on: (NAMES[on], FakeBackend(on))}))
    assert metrics is not None
    text = (await metrics.text("text/plain"))[0].decode()
    assert set(re.findall(r'role="(\w+)"', text)) == {on}


async def test_policies_of_a_role_that_is_off_are_not_needed():
    joined = {"EMBED_JOIN": "true", "EMBED_CACHE": "1MiB"}
    async with serving(Api(settings=OFF[Role.EMBED] | joined)) as api:
        await until(lambda: api.is_ready)
        assert api.service.health().embedding_cache is None


def test_several_processes_may_serve_one_role():
    require_gateway(load_settings(OFF[Role.GENERATE] | {"EMBED_BACKEND": "vllm-http", "API_PROCESSES": "2"}))
    with pytest.raises(ConfigurationError, match="EMBED_BACKEND is vllm-inprocess"):
        require_gateway(load_settings(OFF[Role.GENERATE] | {"API_PROCESSES": "2"}))


@pytest.mark.parametrize("off", DEFAULT_ROLES)
def test_only_the_other_model_is_prepared(off, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    names = {f"MODEL_{ROLES[role].prefix}_NAME": str(tmp_path) for role in DEFAULT_ROLES}
    found = prepare_models(load_settings(OFF[off] | names), lambda _step, _share: None)
    assert list(found) == [OTHER[off]]


def test_an_optional_model_on_a_server_is_not_prepared_if_it_has_no_name(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    names = {f"MODEL_{ROLES[role].prefix}_NAME": str(tmp_path) for role in DEFAULT_ROLES}
    found = prepare_models(load_settings(names | {"RERANK_BACKEND": "vllm-http"}), lambda _step, _share: None)
    assert list(found) == list(DEFAULT_ROLES)


def test_a_shortage_names_only_settings_of_active_engines(monkeypatch):
    monkeypatch.setattr("adapters.vllm.inprocess.provider.CPU_ENGINE_GIB", 10_000.0)
    provider = inprocess_provider(load_settings({}), [Role.EMBED])
    provider.card = ram()
    with pytest.raises(ConfigurationError) as caught:
        provider.shares_without_plan()
    assert str(caught.value).endswith("with EMBED_BACKEND=vllm-http.")
