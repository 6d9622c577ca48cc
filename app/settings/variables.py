"""The list of all that can be set, in the order in which it is shown and mistakes are told."""

from app.settings import engine_variables as engines
from app.settings import service_variables as service
from app.settings import telemetry_variables as telemetry
from app.settings.variable import Group

GROUPS = (
    Group(
        title="Service",
        about="Where the service listens, and how it treats requests.",
        variables=service.SERVICE,
    ),
    Group(
        title="Access",
        about="Who may use the service, how much of it, from which pages, and over TLS.",
        guide="SECURITY.md",
        variables=service.ACCESS,
    ),
    Group(
        title="Limits of clients",
        about="What clients may take, with a key or without.",
        guide="SECURITY.md",
        variables=service.CLIENT_LIMITS,
    ),
    Group(
        title="Time limits",
        about="How long a request, the end of the service, and an engine's silence may take.",
        guide="docs/reliability.md",
        variables=service.TIME_LIMITS,
    ),
    Group(
        title="Models",
        about="Which models are served, and under which names.",
        variables=engines.MODELS,
    ),
    Group(
        title="Where the engines run",
        about="In the service's own processes, on servers that somebody else runs, or by a factory of your own.",
        variables=engines.BACKENDS,
    ),
    Group(
        title="Memory",
        about="How much each engine gets; what is unset, the memory plan decides.",
        guide="docs/memory.md",
        variables=engines.MEMORY,
    ),
    Group(
        title="Back-pressure",
        about="How much each engine is given at a time and how much may wait; past that, clients get status 429.",
        guide="docs/reliability.md",
        variables=engines.BACK_PRESSURE,
    ),
    Group(
        title="Requests for embeddings",
        about="What happens to them before an engine sees them.",
        guide="docs/performance.md",
        variables=engines.EMBEDDINGS,
    ),
    Group(
        title="Servers over vllm-http",
        about="How patient the service is with vLLM servers, for both engines.",
        guide="docs/servers.md",
        variables=engines.SERVERS,
    ),
    Group(
        title="Log",
        about="What the service and its engines say, and how.",
        guide="docs/observability.md",
        variables=telemetry.LOG,
    ),
    Group(
        title="Metrics",
        about="What Prometheus finds.",
        guide="docs/observability.md",
        variables=telemetry.METRICS,
    ),
    Group(
        title="Traces and metrics over OTLP",
        about="OpenTelemetry's own variables: whether traces and metrics are sent somewhere, and how.",
        guide="docs/observability.md",
        variables=telemetry.OTLP,
    ),
)
VARIABLES = tuple(variable for group in GROUPS for variable in group.variables)
