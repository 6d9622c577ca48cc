"""The variables of what the service tells of itself."""

from app.settings import otlp, parsers
from app.settings.settings import INPROCESS
from app.settings.variable import Variable

LOG = (
    Variable(
        name="LOG_LEVEL",
        default="info",
        parse=parsers.parse_log_level,
        about="Level of the service's own log: debug, info, warning or error.",
    ),
    Variable(
        name="LOG_FORMAT",
        default="auto",
        parse=parsers.parse_log_format,
        about="Log lines as text or json; auto is text on a terminal and json elsewhere.",
    ),
    Variable(
        name="REQUEST_LOG",
        default="true",
        parse=parsers.parse_yes_or_no,
        about="Whether each request gets a line in the log, on the level info and without its content.",
    ),
    Variable(
        name="ENGINE_LOG_LEVEL",
        default="error",
        parse=parsers.parse_log_level,
        about="Level of vLLM's own log: debug, info, warning, or error, which tells only why an engine failed.",
    ),
)
METRICS = (
    Variable(
        name="METRICS",
        default="true",
        parse=parsers.parse_yes_or_no,
        about="Whether there are metrics for Prometheus at /metrics.",
    ),
    Variable(
        name="ENGINE_METRICS",
        default="true",
        parse=parsers.parse_yes_or_no,
        about=f"Whether vLLM's own metrics are among the metrics; {INPROCESS} only.",
    ),
)
OTLP = (
    Variable(
        name="OTEL_EXPORTER_OTLP_ENDPOINT",
        default="",
        parse=otlp.parse_endpoint,
        about="Where traces and metrics are sent (OTLP), such as http://127.0.0.1:4318. Unset: nowhere.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        default="",
        parse=otlp.parse_endpoint,
        about="Where traces are sent, with the whole path, such as http://127.0.0.1:6006/v1/traces.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        default="",
        parse=otlp.parse_endpoint,
        about="Where metrics are sent, with the whole path.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_PROTOCOL",
        default=otlp.HTTP_PROTOBUF,
        parse=otlp.one_of(otlp.PROTOCOLS),
        about="How they are sent: http/protobuf or grpc.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        default="",
        parse=otlp.one_of(otlp.PROTOCOLS),
        about="How traces are sent. Unset: as OTEL_EXPORTER_OTLP_PROTOCOL says.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        default="",
        parse=otlp.one_of(otlp.PROTOCOLS),
        about="How metrics are sent. Unset: as OTEL_EXPORTER_OTLP_PROTOCOL says.",
    ),
    Variable(
        name="OTEL_EXPORTER_OTLP_HEADERS",
        default="",
        parse=otlp.parse_headers,
        is_secret=True,
        about="Headers to send with them, such as authorization=Bearer%20KEY, separated by commas.",
    ),
    Variable(
        name="OTEL_TRACES_EXPORTER",
        default="otlp",
        parse=otlp.one_of(("otlp", "none")),
        about="otlp, or none to send no traces whatever the address.",
    ),
    Variable(
        name="OTEL_METRICS_EXPORTER",
        default="otlp",
        parse=otlp.one_of(("otlp", "none")),
        about="otlp, or none to send no metrics whatever the address.",
    ),
    Variable(
        name="OTEL_TRACES_SAMPLER",
        default="parentbased_always_on",
        parse=otlp.one_of(otlp.SAMPLERS),
        about="Which traces are kept: parentbased_traceidratio keeps the share that OTEL_TRACES_SAMPLER_ARG says.",
    ),
    Variable(
        name="OTEL_TRACES_SAMPLER_ARG",
        default="",
        parse=otlp.parse_sampler_argument,
        about="Share of traces to keep, 0 to 1, for samplers by ratio. Unset: 1.",
    ),
    Variable(
        name="OTEL_METRIC_EXPORT_INTERVAL",
        default="60000",
        parse=otlp.parse_interval,
        about="Milliseconds between two exports of metrics.",
    ),
    Variable(
        name="OTEL_SERVICE_NAME",
        default=otlp.DEFAULT_SERVICE_NAME,
        parse=str,
        about="The service's name in traces and metrics.",
    ),
    Variable(
        name="OTEL_RESOURCE_ATTRIBUTES",
        default="",
        parse=otlp.parse_attributes,
        about="More about the service for traces and metrics, such as deployment.environment=test.",
    ),
    Variable(
        name="OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        default="false",
        parse=parsers.parse_yes_or_no,
        about="Whether spans hold prompts and answers. They may be private: think before you set it.",
    ),
    Variable(
        name="OTEL_SDK_DISABLED",
        default="false",
        parse=otlp.one_of(("true", "false")),
        about="true sends nothing at all.",
    ),
)
