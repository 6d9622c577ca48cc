"""OpenTelemetry's standard variables: valid values and mistakes."""

import pytest
from opentelemetry.sdk import environment_variables

from app.settings import VARIABLES, load_settings, unknown_names
from app.settings.otlp import GRPC, HTTP_PROTOBUF, SAMPLERS, OtlpSignal
from domain.errors import ConfigurationError

A = "OTEL_EXPORTER_OTLP"
URL = "http://collector:4318"
TRACES, METRICS = (f"{URL}/v1/traces", HTTP_PROTOBUF), (f"{URL}/v1/metrics", HTTP_PROTOBUF)


def telemetry(**given: str):
    return load_settings(given).telemetry


@pytest.mark.parametrize(
    ("given", "traces", "metrics"),
    [
        ({}, None, None),
        ({f"{A}_ENDPOINT": URL}, TRACES, METRICS),
        ({f"{A}_ENDPOINT": f"{URL}/"}, TRACES, METRICS),
        (
            {f"{A}_ENDPOINT": f"{URL}/a"},
            (f"{URL}/a/v1/traces", HTTP_PROTOBUF),
            (f"{URL}/a/v1/metrics", HTTP_PROTOBUF),
        ),
        # The endpoint of one signal is used unchanged.
        ({f"{A}_TRACES_ENDPOINT": URL}, (URL, HTTP_PROTOBUF), None),
        ({f"{A}_METRICS_ENDPOINT": f"{URL}/x"}, None, (f"{URL}/x", HTTP_PROTOBUF)),
        (
            {f"{A}_ENDPOINT": URL, f"{A}_TRACES_ENDPOINT": "https://other"},
            ("https://other", HTTP_PROTOBUF),
            METRICS,
        ),
        # gRPC has no paths.
        ({f"{A}_ENDPOINT": URL, f"{A}_PROTOCOL": "grpc"}, (URL, GRPC), (URL, GRPC)),
        ({f"{A}_ENDPOINT": URL, f"{A}_PROTOCOL": "GRPC"}, (URL, GRPC), (URL, GRPC)),
        ({f"{A}_ENDPOINT": URL, f"{A}_TRACES_PROTOCOL": "grpc"}, (URL, GRPC), METRICS),
        (
            {f"{A}_ENDPOINT": URL, f"{A}_PROTOCOL": "grpc", f"{A}_METRICS_PROTOCOL": "http/protobuf"},
            (URL, GRPC),
            METRICS,
        ),
        ({f"{A}_ENDPOINT": URL, "OTEL_TRACES_EXPORTER": "none"}, None, METRICS),
        ({f"{A}_ENDPOINT": URL, "OTEL_METRICS_EXPORTER": "None"}, TRACES, None),
        ({f"{A}_ENDPOINT": URL, "OTEL_SDK_DISABLED": "TRUE"}, None, None),
        ({f"{A}_ENDPOINT": URL, "OTEL_SDK_DISABLED": "false"}, TRACES, METRICS),
        ({f"{A}_ENDPOINT": " "}, None, None),
    ],
)
def test_endpoints_of_signals(given, traces, metrics):
    found = telemetry(**given)
    for signal, wanted in ((found.traces, traces), (found.metrics_export, metrics)):
        assert signal == (None if wanted is None else OtlpSignal(endpoint=wanted[0], protocol=wanted[1]))


MISTAKES = {
    f"{A}_ENDPOINT": [
        "collector:4318",
        "ftp://a",
        "http://",
        "http://a b",
        "http://a:0",
        "http://a:x",
        "http://[a",
    ],
    f"{A}_TRACES_ENDPOINT": ["collector"],
    f"{A}_METRICS_ENDPOINT": ["/v1/metrics"],
    f"{A}_PROTOCOL": ["http/json", "http", "g rpc"],
    f"{A}_TRACES_PROTOCOL": ["x"],
    f"{A}_METRICS_PROTOCOL": ["x"],
    "OTEL_TRACES_EXPORTER": ["console", "otlp,console"],
    "OTEL_METRICS_EXPORTER": ["prometheus"],
    "OTEL_TRACES_SAMPLER": ["sometimes", "jaeger_remote"],
    "OTEL_TRACES_SAMPLER_ARG": ["2", "1.01", "-0.1", "half", "1e-3", "٠.٥"],
    "OTEL_METRIC_EXPORT_INTERVAL": ["0", "-1", "1.5", "1s", "9999999999"],
    "OTEL_RESOURCE_ATTRIBUTES": ["a", "a=1,b", "=1"],
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": ["maybe", "span_only"],
    "OTEL_SDK_DISABLED": ["1", "yes"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in MISTAKES.items() for value in values]
)
def test_a_mistake_is_one_sentence_with_name_and_value(name, value):
    with pytest.raises(ConfigurationError) as caught:
        load_settings({name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} is '{value}'; it must be ")
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    "value", ["secret", "a b=secret", "=secret", 'a="secret"', "a=b;secret", "a=b,secret", "a=ü-secret"]
)
def test_a_mistake_in_headers_does_not_show_them(value):
    with pytest.raises(ConfigurationError) as caught:
        load_settings({f"{A}_HEADERS": value})
    message = str(caught.value)
    assert message.startswith(f"{A}_HEADERS must be header=value")
    assert "secret" not in message


@pytest.mark.parametrize("name", [f"{A}_ENDPOINT", f"{A}_TRACES_ENDPOINT", f"{A}_METRICS_ENDPOINT"])
@pytest.mark.parametrize(
    "value",
    [
        "http://user:secret@collector:4318",
        "https://secret@collector",
        "http://user:sec/ret@collector",
        "ftp://user:secret@collector",
        "user:secret@collector:4318",
        "http://collector:4318?key=secret",
    ],
)
def test_a_secret_in_an_endpoint_is_rejected_and_not_shown(name, value):
    with pytest.raises(ConfigurationError) as caught:
        load_settings({name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} must be an address without user, password or query")
    assert message.endswith(f"put keys into {A}_HEADERS.")
    assert "secret" not in message
    assert "ret@" not in message


@pytest.mark.parametrize(
    "value", ["a=b", "authorization=Bearer%20x", "a=b, c=d", "authorization=Bearer x", "a=b==", "a=", "a=b,"]
)
def test_valid_headers_are_accepted(value):
    from opentelemetry.util.re import parse_env_headers

    assert parse_env_headers(value, liberal=True)
    assert telemetry(**{f"{A}_HEADERS": value}).environment == {f"{A}_HEADERS": value}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("argument", ["", "0", "1", "1.0", "0.25"])
def test_standard_samplers_are_accepted(sampler, argument):
    telemetry(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument)


def test_all_mistakes_are_reported_together():
    with pytest.raises(ConfigurationError) as caught:
        load_settings({name: values[0] for name, values in MISTAKES.items()})
    assert [line.split()[0] for line in str(caught.value).splitlines()] == sorted(
        MISTAKES, key=[variable.name for variable in VARIABLES].index
    )


@pytest.mark.parametrize(("value", "captures"), [("", False), ("false", False), ("true", True), ("TRUE", True)])
def test_content_is_opt_in(value, captures):
    assert telemetry(OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=value).capture_content is captures


def test_variables_of_the_sdk_are_passed_on_but_defaults_are_not():
    found = telemetry(
        OTEL_BSP_SCHEDULE_DELAY="5",
        OTEL_SERVICE_NAME="mine",
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_SDK_DISABLED="",
        OTHER="x",
    )
    assert found.environment == {"OTEL_BSP_SCHEDULE_DELAY": "5", "OTEL_SERVICE_NAME": "mine"}


def test_the_environment_overrides_dotenv(tmp_path):
    path = tmp_path / ".env"
    path.write_text("OTEL_SERVICE_NAME=there\nOTEL_BSP_MAX_QUEUE_SIZE=9\n")
    found = load_settings({"OTEL_SERVICE_NAME": "here"}, path).telemetry
    assert found.service_name == "here"
    assert found.environment == {"OTEL_SERVICE_NAME": "here", "OTEL_BSP_MAX_QUEUE_SIZE": "9"}


def test_names_that_the_sdk_reads_are_no_mistakes(tmp_path):
    known = [name for name in dir(environment_variables) if name.startswith("OTEL_") and "ZIPKIN" not in name]
    assert len(known) > 50
    path = tmp_path / ".env"
    path.write_text("".join(f"{name}=x\n" for name in known))
    assert unknown_names(path) == []


@pytest.mark.parametrize(
    "name", ["OTEL_EXPORTER_OTLP_ENDPONT", "OTEL_EXPORTER_OTLP_TRACE_ENDPOINT", "OTEL_TRACE_SAMPLER"]
)
def test_a_misspelled_name_is_reported(tmp_path, name):
    path = tmp_path / ".env"
    path.write_text(f"{name}=x\n")
    assert len(unknown_names(path)) == 1
