"""What the files of `deploy/compose*.yaml` read beside the service's own settings.

The service itself reads none of these. They stand here so that `.env.example` and the table in docs/deployment.md
(`python -m app.settings.compose_variables`) have one source, and so that none of them is taken for a
misspelled setting.
"""

from typing import NamedTuple


class ComposeVariable(NamedTuple):
    """One variable of the compose files."""

    name: str
    default: str
    """As the compose files have it; empty means unset."""
    about: str


COMPOSE_VARIABLES = (
    ComposeVariable(
        "PUBLISH_ADDRESS",
        "127.0.0.1",
        "Host's address of the service's port. 0.0.0.0 opens it: set API_KEYS then.",
    ),
    ComposeVariable(
        "MEMORIA_IMAGE", "memoria-vllm:0.1.0", "Name of the image without vLLM; built if it is not there."
    ),
    ComposeVariable(
        "MEMORIA_GPU_IMAGE", "memoria-vllm:0.1.0-gpu", "Name of the image with vLLM; built if it is not there."
    ),
    ComposeVariable(
        "MEMORIA_FILES", "files", "Folder of key and certificate files, which the service finds under /files."
    ),
    ComposeVariable("MEMORIA_MEMORY_LIMIT", "2g", "Most memory of the service without vLLM."),
    ComposeVariable(
        "STOP_GRACE_PERIOD", "60s", "Time to end before Docker kills the service; longer than DRAIN_TIMEOUT_S."
    ),
    ComposeVariable("VLLM_IMAGE", "vllm/vllm-openai:v0.32.0", "Image of the two vLLM servers."),
    ComposeVariable("VLLM_EMBED_PORT", "8100", "Port on the host's own 127.0.0.1 of the embedding vLLM server."),
    ComposeVariable("VLLM_GEN_PORT", "8101", "Port on the host's own 127.0.0.1 of the generation vLLM server."),
    ComposeVariable(
        "VLLM_EMBED_MEMORY_ARGS",
        "--gpu-memory-utilization 0.2 --kv-cache-memory-bytes 1073741824 --max-model-len 8192"
        " --max-num-batched-tokens 8192 --max-num-seqs 64",
        "Flags for the memory of the embedding vLLM server; the default is for a card of 24 GiB.",
    ),
    ComposeVariable(
        "VLLM_GEN_MEMORY_ARGS",
        "--gpu-memory-utilization 0.65 --kv-cache-memory-bytes 4294967296 --max-model-len 16384"
        " --max-num-batched-tokens 2048 --max-num-seqs 64",
        "Flags for the memory of the generation vLLM server; the default is for a card of 24 GiB.",
    ),
    ComposeVariable(
        "VLLM_EMBED_MODEL_ARGS",
        "--hf-overrides.is_matryoshka true",
        "Flags that the embedding model needs; the default is for Qwen3-Embedding.",
    ),
    ComposeVariable(
        "VLLM_GEN_MODEL_ARGS",
        "--enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3",
        "Flags that the generation model needs; the default is for Qwen3.",
    ),
    ComposeVariable("VLLM_LOGGING_LEVEL", "INFO", "Level of the vLLM servers' own logs."),
    ComposeVariable("ENGINE_SHM_SIZE", "2gb", "Shared memory of each container with an engine."),
    ComposeVariable("ENGINE_START_PERIOD", "30m", "Time that an engine may take to start, its download included."),
    ComposeVariable("GPU_DEVICE", "0", "Index or UUID of the card for both engines."),
    ComposeVariable("HF_CACHE", "hub", "Folder of the hub's cache on the host, or the name of a volume."),
    ComposeVariable("HF_TOKEN", "", "Token for models that the hub gives only to those who have one."),
    ComposeVariable("HF_HUB_OFFLINE", "0", "1 to ask no hub at all: the models are in HF_CACHE."),
    ComposeVariable(
        "COLLECTOR_IMAGE",
        "otel/opentelemetry-collector-contrib:0.158.0",
        "OpenTelemetry collector, profile observability.",
    ),
    ComposeVariable("PROMETHEUS_IMAGE", "prom/prometheus:v3.13.3", "Prometheus, profile observability."),
    ComposeVariable("GRAFANA_IMAGE", "grafana/grafana:12.4.4", "Grafana, profile observability."),
    ComposeVariable("PHOENIX_IMAGE", "arizephoenix/phoenix:version-20.4.0", "Phoenix, profile observability."),
    ComposeVariable("PROMETHEUS_PORT", "9090", "Port on 127.0.0.1 of Prometheus."),
    ComposeVariable("GRAFANA_PORT", "3000", "Port on 127.0.0.1 of Grafana."),
    ComposeVariable("GRAFANA_PASSWORD", "admin", "Password of Grafana's user admin at its first start."),
    ComposeVariable("PHOENIX_PORT", "6006", "Port on 127.0.0.1 of Phoenix."),
)


def compose_table() -> str:
    """The table of these variables in docs/deployment.md."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    rows += [
        f"| `{variable.name}` | {f'`{variable.default}`' if variable.default else ''} | {variable.about} |"
        for variable in COMPOSE_VARIABLES
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(compose_table(), end="")
