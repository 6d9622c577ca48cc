"""The groups of settings, in the order of the documentation."""

from app.settings.declaration import Group

SERVICE = Group(title="Service", about="Where the service listens and how it handles requests.")
ACCESS = Group(
    title="Access",
    about="Who may use the service, how much of it, from which web pages, and over TLS.",
    guide="SECURITY.md",
)
CLIENT_LIMITS = Group(
    title="Client limits", about="What each client may use, with or without a key.", guide="SECURITY.md"
)
TIME_LIMITS = Group(
    title="Time limits",
    about="How long a request, a shutdown and an unresponsive engine may take.",
    guide="docs/reliability.md",
)
MODELS = Group(title="Models", about="Which models are served, and under which names.")
BACKENDS = Group(
    title="Where the engines run",
    about="In the service's own process, on separate vLLM servers, in a backend of your own, or not at all.",
)
MEMORY = Group(
    title="Memory",
    about="How much memory each engine gets. The memory plan decides what is unset.",
    guide="docs/memory.md",
)
BACK_PRESSURE = Group(
    title="Back-pressure",
    about="How much each engine processes at a time and how much may wait. Further requests get status 429.",
    guide="docs/reliability.md",
)
STATE = Group(
    title="Stored responses",
    about="Whether, where and how long responses and conversations of the Responses API are kept.",
    guide="docs/operations.md",
)
FILES = Group(
    title="Files and batches",
    about="How files and batches may be used. Files are kept in MEMORIA_DATA_DIR; STATE=off keeps none.",
    guide="docs/batches.md",
)
EMBEDDINGS = Group(
    title="Embedding requests",
    about="How embedding requests are batched and cached before they reach the engine.",
    guide="docs/performance.md",
)
SERVERS = Group(
    title="Servers over vllm-http",
    about="Timeouts, retries and circuit breakers towards vLLM servers, for all roles.",
    guide="docs/servers.md",
)
LOG = Group(
    title="Log",
    about="What the service and its engines log, and in which format.",
    guide="docs/observability.md",
)
METRICS = Group(title="Metrics", about="Metrics for Prometheus.", guide="docs/observability.md")
OTLP = Group(
    title="Traces and metrics over OTLP",
    about="OpenTelemetry's standard variables: whether, where and how traces and metrics are exported.",
    guide="docs/observability.md",
)

ORDER = (
    SERVICE, ACCESS, CLIENT_LIMITS, TIME_LIMITS, MODELS, BACKENDS, MEMORY, BACK_PRESSURE, EMBEDDINGS, STATE,
    FILES, SERVERS, LOG, METRICS, OTLP,
)  # fmt: skip
