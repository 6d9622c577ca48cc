"""The compose files, read by Docker Compose itself (`docker-compose config`, which needs no engine)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.settings import VARIABLES, load_settings
from domain.roles import Role
from tests.deployment import COMPOSE_FILES, DEPLOY, ROOT, compose
from tests.unit.serving import Api
from tools.compose_variables import COMPOSE_VARIABLES, table

SETTINGS = {variable.name for variable in VARIABLES}
EXTRAS = {variable.name: variable.default for variable in COMPOSE_VARIABLES}
# The models' names have no default of their own among the settings: it depends on the machine there.
# The gateway has no engine of its own, so that a role without a server is off.
OWN_DEFAULTS = {
    "MODEL_EMBED_NAME": "Qwen/Qwen3-Embedding-0.6B",
    "MODEL_GEN_NAME": "Qwen/Qwen3-8B-FP8",
    "MODEL_RERANK_NAME": "BAAI/bge-reranker-v2-m3",
    "RERANK_BACKEND": "off",
}
TEXTS = {path.name: path.read_text() for path in sorted(DEPLOY.glob("compose*.yaml"))}
SERVICES = [(file, name) for file in COMPOSE_FILES for name in compose(file)["services"]]


def service(file: str, name: str, *set_variables: tuple[str, str]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = compose(file, *set_variables)["services"][name]
    return found


def uses() -> list[tuple[str, str, str]]:
    """Every (file, variable, default) of what is filled in, as ${NAME:-default} or ${NAME-default}."""
    found = []
    for file, text in TEXTS.items():
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        pairs = re.findall(r"\$\{([A-Z_]+):?-([^}]*)\}", code)
        assert code.count("${") == len(pairs), f"{file}: one has no default"
        found += [(file, name, default) for name, default in pairs]
    return found


def seconds(duration: str) -> float:
    """Docker's way to write times: 1m30s."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", duration)
    return sum(float(number) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts)


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_docker_compose_takes_the_file(file):
    assert compose(file)["services"]


def test_every_variable_is_in_the_example_file():
    example = (ROOT / ".env.example").read_text()
    missing = {name for _, name, _ in uses() if f"\n#{name}=" not in example}
    assert missing == set()


def test_defaults_are_those_of_the_example_file():
    defaults = {variable.name: variable.default for variable in VARIABLES} | EXTRAS | OWN_DEFAULTS
    assert {(name, default) for _, name, default in uses() if defaults[name] != default} == set()


def test_every_variable_for_containers_is_used():
    assert {name for _, name, _ in uses()} >= set(EXTRAS)


def test_the_table_of_the_guide_is_the_list():
    guide = (ROOT / "docs" / "deployment.md").read_text()
    assert table(COMPOSE_VARIABLES) in guide, "python -m tools.compose_variables prints the table"


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_every_setting_reaches_the_service(file):
    environment = service(file, "memoria")["environment"]
    missing = sorted(SETTINGS - set(environment))
    assert missing == [], "add these names to deploy/compose.common.yaml"
    assert set(environment) - SETTINGS <= {"HF_TOKEN", "HF_HUB_OFFLINE"}


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_what_is_fixed_for_the_service_is_usable(file):
    environment = {k: v for k, v in service(file, "memoria")["environment"].items() if v is not None}
    loaded = load_settings(environment)
    assert (loaded.host, loaded.port) == ("0.0.0.0", 8200)
    assert loaded.role(Role.EMBED).backend == ("vllm-http" if file == "compose.yaml" else "vllm-inprocess")


def test_the_service_gets_what_the_environment_says_and_nothing_it_does_not():
    given = service("compose.yaml", "memoria", ("API_KEYS", "sk-long-secret"))["environment"]
    assert given["API_KEYS"] == "sk-long-secret"
    assert given["LOG_LEVEL"] is None


def test_the_service_asks_the_servers_of_this_file():
    environment = service("compose.yaml", "memoria", ("RERANK_BACKEND", "vllm-http"))["environment"]
    settings = load_settings({k: v for k, v in environment.items() if v})
    for name, port in (("embed", 8100), ("generate", 8101), ("rerank", 8102)):
        assert settings.role(Role(name)).urls == (f"http://{name}:{port}",)
        command = service("compose.yaml", name)["command"]
        assert command[command.index("--port") + 1] == str(port)
        assert f"127.0.0.1:{port}/health" in service("compose.yaml", name)["healthcheck"]["test"][-1]


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_nothing_is_published_beyond_this_machine_unasked(file, name):
    addresses = {port["host_ip"] for port in service(file, name).get("ports", [])}
    assert addresses <= {"127.0.0.1"}


@pytest.mark.parametrize("name", ["embed", "generate"])
def test_only_the_service_can_be_opened_to_the_network(name):
    opened = ("PUBLISH_ADDRESS", "0.0.0.0")
    assert service("compose.yaml", "memoria", opened)["ports"][0]["host_ip"] == "0.0.0.0"
    assert {port["host_ip"] for port in service("compose.yaml", name, opened)["ports"]} == {"127.0.0.1"}


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_images_are_pinned(file, name):
    tag = service(file, name)["image"].rpartition(":")[2]
    assert re.search(r"\d+\.\d+\.\d+", tag), f"{tag} is no version"


@pytest.mark.parametrize(("file", "name"), SERVICES)
def test_every_container_comes_back_and_gains_nothing(file, name):
    own = service(file, name)
    assert own["restart"] == "unless-stopped"
    assert own["security_opt"] == ["no-new-privileges:true"]
    assert own["logging"]["options"]["max-size"], "logs that grow for ever fill the disk"


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_the_service_can_write_nowhere_but_to_memory_caches_and_its_data(file):
    own = service(file, "memoria")
    assert own["read_only"] is True
    assert own["cap_drop"] == ["ALL"]
    assert own["tmpfs"][0].startswith("/tmp")
    writable = {volume["target"] for volume in own["volumes"] if not volume.get("read_only")}
    caches = {"/home/memoria/.cache", "/home/memoria/.cache/huggingface"}
    data = load_settings({"MEMORIA_DATA_DIR": own["environment"]["MEMORIA_DATA_DIR"]}).state.data_dir
    assert writable == {str(data), *(caches if file == "compose.inprocess.yaml" else ())}


@pytest.mark.parametrize("file", COMPOSE_FILES)
async def test_the_health_check_asks_a_route_of_the_service(file, api: Api):
    own = service(file, "memoria")
    address = own["healthcheck"]["test"][-1]
    assert address.startswith("http://127.0.0.1:8200/")
    assert (await api.http.get(address.removeprefix("http://127.0.0.1:8200"))).status_code == 200
    assert own["ports"][0]["target"] == 8200


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_docker_waits_longer_than_the_service_takes_to_end(file):
    # Engines have up to 25 s to end after that (adapters.vllm.inprocess.engine).
    assert seconds(service(file, "memoria")["stop_grace_period"]) >= load_settings({}).drain_timeout_s + 25


@pytest.mark.parametrize(("file", "name"), [("compose.yaml", "embed"), ("compose.yaml", "generate")])
def test_the_servers_are_set_up_to_share_a_card(file, name):
    own = service(file, name)
    command = own["command"]
    for flag in (
        "--gpu-memory-utilization",
        "--kv-cache-memory-bytes",
        "--max-num-batched-tokens",
        "--max-num-seqs",
    ):
        assert flag in command
    assert {"--enable-prefix-caching", "--no-enable-log-requests", "--disable-uvicorn-access-log"} <= set(command)
    assert ("--enable-prompt-tokens-details" in command) == (name == "generate")
    assert int(own["shm_size"]) >= 2**30
    (device,) = own["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["device_ids"], device["capabilities"]) == ("nvidia", ["0"], ["gpu"])
    assert "/root/.cache/huggingface" in {volume["target"] for volume in own["volumes"]}


def test_both_servers_have_the_same_card_and_leave_some_of_it():
    shares = []
    for name in ("embed", "generate"):
        command = service("compose.yaml", name)["command"]
        shares += [float(command[command.index("--gpu-memory-utilization") + 1])]
    assert sum(shares) < 0.9


def test_the_larger_engine_starts_first_and_alone():
    assert service("compose.yaml", "embed")["depends_on"]["generate"]["condition"] == "service_healthy"
    assert "depends_on" not in service("compose.yaml", "generate")


def test_the_service_waits_for_no_engine():
    # It says how they are from the first second on.
    assert "depends_on" not in service("compose.yaml", "memoria")


def test_flags_of_ones_own_come_last_and_keep_their_quotes():
    mine = ("VLLM_GEN_ARGS", """--max-model-len 4096 --structured-outputs-config '{"backend": "xgrammar"}'""")
    command = service("compose.yaml", "generate", mine)["command"]
    assert command[-4:] == ["--max-model-len", "4096", "--structured-outputs-config", '{"backend": "xgrammar"}']


@pytest.mark.parametrize(
    ("name", "variable"), [("embed", "VLLM_EMBED_MODEL_ARGS"), ("generate", "VLLM_GEN_MODEL_ARGS")]
)
def test_a_model_that_needs_no_flags_can_have_none(name, variable):
    flags = {"--hf-overrides.is_matryoshka", "--tool-call-parser", "--reasoning-parser"}
    assert flags & set(service("compose.yaml", name)["command"])
    assert not flags & set(service("compose.yaml", name, (variable, ""))["command"])


def test_a_key_for_the_servers_is_one_for_both_sides():
    key = ("VLLM_GEN_API_KEY", "between-us")
    assert service("compose.yaml", "generate", key)["environment"]["VLLM_API_KEY"] == "between-us"
    assert service("compose.yaml", "memoria", key)["environment"]["VLLM_GEN_API_KEY"] == "between-us"
    # None at all is the empty one, which vLLM takes for none.
    assert service("compose.yaml", "generate")["environment"]["VLLM_API_KEY"] == ""


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_what_watches_starts_only_when_asked_for(file):
    services = compose(file)["services"]
    watching = {name for name, own in services.items() if own.get("profiles") == ["observability"]}
    assert watching == {"collector", "prometheus", "grafana", "phoenix"}
    engines = {"embed", "generate", "rerank"} if file == "compose.yaml" else set()
    assert set(services) - watching == {"memoria"} | engines
    assert [name for name in engines if services[name].get("profiles")] == ["rerank"][: len(engines)]


def test_every_mounted_file_is_there():
    sources = {
        volume["source"]
        for name in ("collector", "prometheus", "grafana", "phoenix")
        for volume in service("compose.yaml", name)["volumes"]
        if volume["type"] == "bind"
    }
    assert sources
    assert [source for source in sorted(sources) if not Path(source).exists()] == []
