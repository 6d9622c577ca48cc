import contextlib
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import platformdirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.settings import (
    VARIABLES,
    ApiOptions,
    EmbeddingPolicies,
    SecuritySettings,
    Settings,
    StateSettings,
    TelemetrySettings,
    load_settings,
    unknown_names,
)
from app.settings.declaration import Variable
from app.settings.groups import SERVICE
from app.settings.variables import build
from domain.errors import ConfigurationError
from domain.memory_plan import GpuBudget
from domain.policies.fault_tolerance import FaultTolerance
from domain.roles import ROLES, Role
from tools.compose_variables import COMPOSE_VARIABLES

ROOT = Path(__file__).parents[2]

# A valid value for each variable that is not its default.
OTHER_VALUES = {
    "HOST": "0.0.0.0",
    "PORT": "0",
    "API_PROCESSES": "2",
    "MEMORIA_CACHE_DIR": "some/folder",
    "ALLOW_UNKNOWN_FIELDS": "true",
    "STRICT_TOOLS": "true",
    "SSE_KEEP_ALIVE_S": "0.5",
    "API_KEYS": "sk-first-key,sk-second-key",
    "API_KEYS_FILE": "some/keys",
    "KEY_REQUESTS_PER_MINUTE": "60",
    "KEY_TOKENS_PER_MINUTE": "100000",
    "CORS_ORIGINS": "https://app.example.com,http://localhost:3000",
    "TLS_CERT_FILE": "some/cert.pem",
    "TLS_KEY_FILE": "some/key.pem",
    "MAX_BODY_BYTES": "1",
    "MAX_CONNECTIONS": "64",
    "CLIENT_TIMEOUT_S": "0",
    "REQUEST_TIMEOUT_S": "5",
    "DRAIN_TIMEOUT_S": "5",
    "HANG_TIMEOUT_S": "5",
    "MODEL_EMBED_NAME": "org/model",
    "MODEL_EMBED_ALIASES": "a,b",
    "MODEL_GEN_NAME": "./model",
    "MODEL_GEN_ALIASES": "a,b",
    "MODEL_RERANK_NAME": "reranker",
    "MODEL_RERANK_ALIASES": "rerank-v3.5",
    "EMBED_BACKEND": "vllm-http",
    "VLLM_EMBED_URL": "https://host/v1/",
    "VLLM_EMBED_API_KEY": "key",
    "VLLM_EMBED_ARGS": "--seed 1",
    "GEN_BACKEND": "package.module:factory",
    "VLLM_GEN_URL": "http://[::1]:8000",
    "VLLM_GEN_API_KEY": "key",
    "VLLM_GEN_ARGS": "--seed 1",
    "RERANK_BACKEND": "vllm-http",
    "VLLM_RERANK_URL": "https://host/v1/",
    "VLLM_RERANK_API_KEY": "key",
    "VLLM_RERANK_ARGS": "--seed 1",
    "VLLM_EMBED_GPU_MEMORY": "0.5",
    "VLLM_EMBED_MAX_MODEL_LEN": "512",
    "VLLM_GEN_GPU_MEMORY": "6GiB",
    "VLLM_GEN_MAX_MODEL_LEN": "4096",
    "VLLM_RERANK_GPU_MEMORY": "1GiB",
    "VLLM_RERANK_MAX_MODEL_LEN": "512",
    "EMBED_MAX_RUNNING": "7",
    "EMBED_MAX_WAITING": "0",
    "EMBED_MAX_RUNNING_TOKENS": "7000",
    "EMBED_MAX_WAITING_TOKENS": "7000",
    "GEN_MAX_RUNNING": "7",
    "GEN_MAX_WAITING": "0",
    "GEN_MAX_RUNNING_TOKENS": "7000",
    "GEN_MAX_WAITING_TOKENS": "7000",
    "RERANK_MAX_RUNNING": "7",
    "RERANK_MAX_WAITING": "0",
    "RERANK_MAX_RUNNING_TOKENS": "7000",
    "RERANK_MAX_WAITING_TOKENS": "7000",
    "BATCH_BUSY_RUNNING": "2",
    "VLLM_EMBED_TOKENIZER": "some/folder",
    "EMBED_JOIN": "true",
    "EMBED_CACHE": "256MiB",
    "STATE": "off",
    "STATE_DATABASE": "postgresql://user:password@host/database",
    "MEMORIA_DATA_DIR": "some/data",
    "STATE_MAX_AGE_DAYS": "0",
    "STATE_MAX_SIZE": "256MiB",
    "FILES_MAX_SIZE": "1MiB",
    "FILES_MAX_TOTAL_SIZE": "1GiB",
    "BATCHES": "off",
    "BATCH_MAX_LINES": "10",
    "BATCH_ON_INVALID_LINE": "skip",
    "BATCH_CONCURRENCY": "3",
    "BATCH_MAX_UNFINISHED": "5",
    "HTTP_CONNECT_TIMEOUT_S": "0.5",
    "HTTP_READ_TIMEOUT_S": "30",
    "HTTP_RETRIES": "0",
    "HTTP_RETRY_SHARE": "0.1",
    "HTTP_BREAKER_FAILURES": "3",
    "HTTP_BREAKER_COOL_DOWN_S": "1.5",
    "LOG_LEVEL": "DEBUG",
    "LOG_FORMAT": "json",
    "REQUEST_LOG": "false",
    "ENGINE_LOG_LEVEL": "warning",
    "METRICS": "false",
    "ENGINE_METRICS": "false",
    "HISTORY": "false",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:6006/v1/traces",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9090/v1/metrics",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20key",
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.1",
    "OTEL_METRIC_EXPORT_INTERVAL": "5000",
    "OTEL_SERVICE_NAME": "rag",
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true",
    "OTEL_SDK_DISABLED": "true",
}


def mistake(**environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ)
    return str(caught.value)


def dotenv(folder: Path, text: str) -> Path:
    path = folder / ".env"
    path.write_text(text)
    return path


def test_defaults():
    loaded = load_settings({})
    assert (loaded.host, loaded.port, loaded.log_level, loaded.engine_log_level) == (
        "127.0.0.1",
        8200,
        "info",
        "error",
    )
    assert loaded.api == ApiOptions(max_body_bytes=32 * 2**20, allow_unknown_fields=False, keep_alive_s=15.0)
    assert loaded.cache_dir == platformdirs.user_cache_path("memoria-vllm")
    for role, url in ((Role.EMBED, "http://127.0.0.1:8100"), (Role.GENERATE, "http://127.0.0.1:8101")):
        own = loaded.role(role)
        assert (own.backend, own.model, own.aliases, own.urls) == ("vllm-inprocess", None, (), (url,))
        assert (own.api_key, own.args, own.gpu_memory) == (None, "", None)


ON = {"MODEL_RERANK_NAME": "some-reranker"}
"""Switches on the role that is off by default."""


def test_every_variable_has_another_value_here():
    assert list(OTHER_VALUES) == [variable.name for variable in VARIABLES]


@pytest.fixture(scope="module")
def changed() -> dict[str, Settings]:
    """The settings with another value of one variable, by its name, with all roles switched on."""
    return {name: load_settings(ON | {name: value}) for name, value in OTHER_VALUES.items()}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_variable_has_its_own_effect(changed, name):
    others = [settings for other, settings in changed.items() if other != name]
    assert changed[name] not in [load_settings(ON), *others]


def test_all_of_them_together_are_usable():
    loaded = load_settings(OTHER_VALUES)
    assert loaded.role(Role.EMBED).urls == ("https://host/v1",)
    assert loaded.role(Role.GENERATE).gpu_memory == GpuBudget(gib=6)
    assert (loaded.log_level, loaded.cache_dir) == ("debug", Path("some/folder"))


def test_the_home_folder_may_be_abbreviated():
    assert load_settings({"MEMORIA_CACHE_DIR": "~/models"}).cache_dir == Path.home() / "models"


@pytest.mark.parametrize("blank", ["", "   "])
@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_blank_value_is_the_default(name, blank):
    assert load_settings({name: blank}) == load_settings({})


def test_spaces_around_a_value_are_ignored():
    assert load_settings({"PORT": " 9000 "}).port == 9000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOST", "http://0.0.0.0"),
        ("HOST", "a b"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "http"),
        ("PORT", "８２００"),
        ("PORT", "9" * 5000),
        ("LOG_LEVEL", "verbose"),
        ("ENGINE_LOG_LEVEL", "trace"),
        ("MEMORIA_CACHE_DIR", __file__),
        ("MAX_BODY_BYTES", "0"),
        ("MAX_BODY_BYTES", "1MB"),
        ("ALLOW_UNKNOWN_FIELDS", "perhaps"),
        ("SSE_KEEP_ALIVE_S", "-1"),
        ("SSE_KEEP_ALIVE_S", "inf"),
        ("SSE_KEEP_ALIVE_S", "1e3"),
        ("SSE_KEEP_ALIVE_S", "15s"),
        ("SSE_KEEP_ALIVE_S", "\u0661"),
        ("KEY_REQUESTS_PER_MINUTE", "-1"),
        ("KEY_TOKENS_PER_MINUTE", "1e5"),
        ("CORS_ORIGINS", "app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com/"),
        ("MAX_CONNECTIONS", "0"),
        ("CLIENT_TIMEOUT_S", "30s"),
        ("EMBED_BACKEND", "vllm http"),
        ("GEN_BACKEND", "factory"),
        ("VLLM_EMBED_URL", "127.0.0.1:8100"),
        ("VLLM_EMBED_URL", "http://host/v1/embeddings"),
        ("VLLM_EMBED_URL", "ftp://host"),
        ("VLLM_GEN_URL", "http://host?x=1"),
        ("VLLM_EMBED_GPU_MEMORY", "0"),
        ("VLLM_EMBED_GPU_MEMORY", "1"),
        ("VLLM_EMBED_GPU_MEMORY", "1.5"),
        ("VLLM_GEN_GPU_MEMORY", "0GiB"),
        ("VLLM_GEN_GPU_MEMORY", "6MiB"),
        ("VLLM_GEN_GPU_MEMORY", "-0.5"),
        ("VLLM_EMBED_MAX_MODEL_LEN", "0"),
        ("VLLM_GEN_MAX_MODEL_LEN", "8k"),
    ],
)
def test_an_invalid_value_is_reported_with_its_name(name, value):
    message = mistake(**{name: value})
    assert message.startswith(f"{name} is '{value}'; it ")
    assert message.endswith(".")


def test_the_home_folder_of_an_unknown_user_is_reported():
    assert mistake(MEMORIA_CACHE_DIR="~nobody-of-this-name/models").startswith("MEMORIA_CACHE_DIR ")


def test_a_folder_name_too_long_for_the_file_system_is_a_mistake_at_most():
    with contextlib.suppress(ConfigurationError):
        load_settings({"MEMORIA_CACHE_DIR": "x" * 300})


@pytest.mark.parametrize("url", ["http://host:port", "http://[::1", "http://host:99999", "http://:8100"])
def test_an_unusable_address_is_reported(url):
    assert mistake(VLLM_EMBED_URL=url).startswith("VLLM_EMBED_URL ")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8100", "https://host", "http://[::1]:8000/v1", "http://a-b.c:1/"]
)
def test_an_address_that_is_accepted_can_be_used(url):
    assert httpx.URL(load_settings({"VLLM_GEN_URL": url}).role(Role.GENERATE).urls[0]).host


def test_several_servers_for_one_role_are_a_list():
    assert load_settings({"VLLM_GEN_URL": "http://a:1, http://b:2/v1/"}).role(Role.GENERATE).urls == (
        "http://a:1",
        "http://b:2/v1",
    )


@pytest.mark.parametrize(
    "urls", ["http://a:1,", "http://a:1,,http://b:2", "http://a:1,b:2", "http://a:1;http://b:2"]
)
def test_each_of_several_addresses_has_to_be_one(urls):
    assert "must be an address" in mistake(VLLM_GEN_URL=urls)


def test_a_server_must_not_be_listed_twice():
    assert "list one server twice" in mistake(VLLM_GEN_URL="http://a:1,http://b:2,http://a:1/v1")


@pytest.mark.parametrize("name", ["HTTP_CONNECT_TIMEOUT_S", "HTTP_READ_TIMEOUT_S", "HTTP_BREAKER_COOL_DOWN_S"])
@pytest.mark.parametrize("written", ["0", "-1", "0.0", "x", "1e3"])
def test_a_time_limit_is_above_zero(name, written):
    assert f"{name} is '{written}'" in mistake(**{name: written})


@pytest.mark.parametrize("written", ["1.1", "2", "-0.1", "20%"])
def test_a_share_is_at_most_one(written):
    assert "HTTP_RETRY_SHARE" in mistake(HTTP_RETRY_SHARE=written)


def test_what_can_be_set_for_servers():
    assert load_settings(OTHER_VALUES).http == FaultTolerance(
        connect_timeout_s=0.5,
        read_timeout_s=30,
        retries=0,
        retry_share=0.1,
        breaker_failures=3,
        breaker_cool_down_s=1.5,
    )


@pytest.mark.parametrize("written", ["vllm-htp", "vllm_http"])
def test_a_misspelled_backend_gets_a_suggestion(written):
    assert "did you mean vllm-http?" in mistake(EMBED_BACKEND=written)


def test_all_mistakes_are_reported_together():
    lines = mistake(PORT="x", LOG_LEVEL="y", VLLM_GEN_URL="z", EMBED_BACKEND="-").splitlines()
    assert [line.split()[0] for line in lines] == ["PORT", "EMBED_BACKEND", "VLLM_GEN_URL", "LOG_LEVEL"]


@given(
    st.dictionaries(
        st.sampled_from(sorted(OTHER_VALUES)), st.text("~/.:,-_ 0123456789aZ%é\u0660\n\"'$[]", max_size=12)
    )
)
@settings(max_examples=20, deadline=None)
def test_any_text_gives_settings_or_one_line_for_each_mistake(environ):
    try:
        assert isinstance(load_settings(environ), Settings)
    except ConfigurationError as error:
        lines = f"\n{error}"
        # A secret's value is not shown.
        result = [name for name in environ if f"\n{name} is '" in lines or f"\n{name} must" in lines]
        assert result
        for name in result:
            with pytest.raises(ConfigurationError):
                load_settings({name: environ[name]})


@given(st.floats(0.001, 0.999))
@settings(max_examples=20, deadline=None)
def test_a_share_of_the_card_is_a_fraction(share):
    loaded = load_settings({"VLLM_GEN_GPU_MEMORY": f"{share:.4f}"}).role(Role.GENERATE).gpu_memory
    assert loaded == GpuBudget(fraction=float(f"{share:.4f}"))


@pytest.mark.parametrize("written", ["6GiB", "6 GiB", "6gb", "6G", "6.0g"])
def test_a_size_is_in_gib(written):
    assert load_settings({"VLLM_EMBED_GPU_MEMORY": written}).role(Role.EMBED).gpu_memory == GpuBudget(gib=6)


@pytest.mark.parametrize("written", ["true", "TRUE", "1", "yes", "on"])
def test_yes_can_be_written_in_several_ways(written):
    assert load_settings({"ALLOW_UNKNOWN_FIELDS": written}).api.allow_unknown_fields is True


@pytest.mark.parametrize("written", ["false", "False", "0", "no", "OFF"])
def test_no_can_be_written_in_several_ways(written):
    assert load_settings({"ALLOW_UNKNOWN_FIELDS": written}).api.allow_unknown_fields is False


@pytest.mark.parametrize(("written", "seconds"), [("0", 0.0), ("0.5", 0.5), ("30", 30.0)])
def test_the_silence_before_a_comment_is_in_seconds(written, seconds):
    assert load_settings({"SSE_KEEP_ALIVE_S": written}).api.keep_alive_s == seconds


@pytest.mark.parametrize("written", ["short", "sk-has a space", "sk-naïve-key", "x" * 257])
def test_an_invalid_key_is_reported_without_the_key(written):
    message = mistake(API_KEYS=f"sk-good-key,{written}")
    assert message.startswith("API_KEYS must be keys")
    assert written not in message
    assert "sk-good-key" not in message


def test_keys_are_not_in_what_settings_print():
    loaded = load_settings({"API_KEYS": "sk-first-key"})
    assert loaded.security.api_keys == ("sk-first-key",)
    assert "sk-first-key" not in f"{loaded.security!r}{loaded.security}{loaded}"


def test_aliases_are_trimmed_and_deduplicated():
    assert load_settings({"MODEL_EMBED_ALIASES": " a, b ,,a,c "}).role(Role.EMBED).aliases == ("a", "b", "c")


def test_a_dotenv_file_sets_what_the_environment_does_not(tmp_path):
    path = dotenv(tmp_path, "PORT=9000\nHOST=0.0.0.0\n")
    loaded = load_settings({"PORT": "9001"}, path)
    assert (loaded.port, loaded.host) == (9001, "0.0.0.0")


def test_a_dotenv_files_mistakes_are_reported(tmp_path):
    with pytest.raises(ConfigurationError, match="PORT is 'x'"):
        load_settings({}, dotenv(tmp_path, "PORT=x\n"))


def test_values_in_a_dotenv_file_are_taken_as_they_are(tmp_path):
    path = dotenv(tmp_path, "VLLM_EMBED_API_KEY='a$b${HOME}'\nVLLM_GEN_ARGS=\"--seed 1\"\nHOST\n")
    loaded = load_settings({}, path)
    assert (loaded.role(Role.EMBED).api_key, loaded.role(Role.GENERATE).args) == ("a$b${HOME}", "--seed 1")
    assert loaded.host == "127.0.0.1"


def test_a_dotenv_file_that_is_not_there_sets_nothing(tmp_path):
    assert load_settings({}, tmp_path / ".env") == load_settings({})
    assert unknown_names(tmp_path / ".env") == []


def test_a_binary_dotenv_file_is_reported(tmp_path):
    path = tmp_path / ".env"
    path.write_bytes(b"HOST=\xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"\.env"):
        load_settings({}, path)


def test_a_misspelled_name_in_a_dotenv_file_gets_a_suggestion(tmp_path):
    (warning,) = unknown_names(dotenv(tmp_path, "MODEL_EMBD_NAME=x\nPORT=1\n"))
    assert warning == ".env sets MODEL_EMBD_NAME, which is unknown. Did you mean MODEL_EMBED_NAME?"


def test_names_of_other_programs_are_ignored(tmp_path):
    assert unknown_names(dotenv(tmp_path, "HF_TOKEN=x\nAWS_REGION=y\nPOSTGRES_PASSWORD=z\n")) == []


def test_names_that_only_containers_read_are_no_mistakes(tmp_path):
    # They are similar to settings: VLLM_GEN_MODEL_ARGS and VLLM_GEN_ARGS.
    text = "".join(f"{variable.name}={variable.default}\n" for variable in COMPOSE_VARIABLES)
    assert unknown_names(dotenv(tmp_path, text)) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MODEL_EMBEDDING_NAME", "MODEL_EMBED_NAME"),
        ("MODEL_EMBEDNAME", "MODEL_EMBED_NAME"),
        ("API_KEY", "API_KEYS"),
        ("REQUEST_TIMEOUT", "REQUEST_TIMEOUT_S"),
        ("EMBED_MAX_WAITING_TOKEN", "EMBED_MAX_WAITING_TOKENS"),
        ("HTTP_CONECT_TIMEOUT_S", "HTTP_CONNECT_TIMEOUT_S"),
    ],
)
def test_a_name_with_almost_the_same_words_is_misspelled(tmp_path, name, meant):
    (warning,) = unknown_names(dotenv(tmp_path, f"{name}=x\n"))
    assert warning.endswith(f"Did you mean {meant}?")


def test_a_setting_is_declared_in_one_place():
    class Tried(msgspec.Struct, kw_only=True):
        """Settings of one role."""

        hours: Annotated[float, SERVICE.setting("{prefix}_HOURS", "Hours of the {noun} engine.", float)] = 1.5

    found: list[Variable] = []
    for info in ROLES.values():
        build(Tried, found.append, info)
    assert [(each.name, each.about, each.default) for each in found] == [
        ("EMBED_HOURS", "Hours of the embedding engine.", "1.5"),
        ("GEN_HOURS", "Hours of the generation engine.", "1.5"),
        ("RERANK_HOURS", "Hours of the reranking engine.", "1.5"),
    ]
    assert build(Tried, lambda variable: variable.parse("2")).hours == 2.0


def test_every_documented_default_equals_the_fields():
    """The documented default is parsed to the field's default."""
    loaded = load_settings({})
    assert loaded.http == FaultTolerance()
    assert loaded.api == ApiOptions()
    assert loaded.security == SecuritySettings()
    assert loaded.embedding_policies == EmbeddingPolicies()
    assert loaded.telemetry == TelemetrySettings()
    assert loaded.state == StateSettings(data_dir=platformdirs.user_data_path("memoria-vllm"))


@pytest.mark.parametrize(("written", "size"), [("0", 0), ("1000", 1000), ("2KiB", 2048), ("3 gib", 3 * 2**30)])
def test_sizes_are_bytes_or_have_a_unit(written, size):
    assert load_settings({"EMBED_CACHE": written}).embedding_policies.cache_bytes == size


@pytest.mark.parametrize("written", ["-1", "1.5GiB", "1GB", "x"])
def test_other_sizes_are_mistakes(written):
    assert f"EMBED_CACHE is '{written}'" in mistake(EMBED_CACHE=written)


@pytest.mark.parametrize(("written", "meaning"), [("auto", None), ("TRUE", True), ("off", False)])
def test_joining_is_on_off_or_left_to_the_service(written, meaning):
    assert load_settings({"EMBED_JOIN": written}).embedding_policies.join is meaning


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///relative/state.db",
        "sqlite:////var/lib/memoria/state.db",
        "postgres://user:p%40ss@host:5432/name?sslmode=require",
        "postgresql:///name?host=/run/postgresql",
        "PostgreSQL://[::1]/name",
    ],
)
def test_databases_that_are_accepted(url):
    scheme, _, rest = url.partition("://")
    assert load_settings({"STATE_DATABASE": url}).state.database == f"{scheme.lower()}://{rest}"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:s3cret@host/name",
        "postgresql+psycopg://user:s3cret@host/name",
        "s3cret",
        "/var/lib/s3cret.db",
        "sqlite://",
        "sqlite:///",
        "sqlite://s3cret.db",
        "sqlite:///:memory:",
        "sqlite:///s3cret.db?mode=ro",
        "sqlite:///folder/",
        "postgresql://user:s3cret@host:port/name",
        "postgresql://user:s3cret/x@host:99999/name",
        "postgresql://user:s3cret@host",
        "postgresql://user:s3cret@[::1/name",
    ],
)
def test_other_databases_are_mistakes_that_are_not_repeated(url):
    message = mistake(STATE_DATABASE=url)
    assert message.startswith("STATE_DATABASE must ")
    assert "s3cret" not in message


def test_the_database_is_not_in_what_settings_print():
    assert "s3cret" not in repr(load_settings({"STATE_DATABASE": "postgresql://user:s3cret@host/name"}))


@pytest.mark.parametrize("written", ["1.5", "-1", "x", "999999"])
def test_days_are_whole_numbers(written):
    assert f"STATE_MAX_AGE_DAYS is '{written}'" in mistake(STATE_MAX_AGE_DAYS=written)


def test_secrets_are_marked():
    assert {variable.name for variable in VARIABLES if variable.is_secret} == {
        "API_KEYS",
        "VLLM_EMBED_API_KEY",
        "VLLM_GEN_API_KEY",
        "VLLM_RERANK_API_KEY",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "STATE_DATABASE",
    }
