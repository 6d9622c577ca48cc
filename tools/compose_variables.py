"""Variables that `deploy/compose*.yaml` read in addition to the service's own settings.

The service itself reads none of them. `.env.example` and the table in docs/deployment.md are printed from this
list (`python -m tools.compose_variables` prints the table).
"""

from collections.abc import Iterable
from typing import NamedTuple

from app.settings.declaration import Variable


class ComposeVariable(NamedTuple):
    """One variable of the compose files."""

    name: str
    default: str
    """As written in the compose files; empty means unset."""
    about: str


COMPOSE_VARIABLES = (
    ComposeVariable(
        "PUBLISH_ADDRESS",
        "127.0.0.1",
        "Address of the host on which the port is published. 0.0.0.0 opens it to the network; set API_KEYS then.",
    ),
    ComposeVariable(
        "MEMORIA_IMAGE", "memoria-vllm:0.1.0", "Name of the image without vLLM; built if it does not exist."
    ),
    ComposeVariable(
        "MEMORIA_GPU_IMAGE", "memoria-vllm:0.1.0-gpu", "Name of the image with vLLM; built if it does not exist."
    ),
    ComposeVariable("MEMORIA_FILES", "files", "Folder with key and certificate files, mounted at /files."),
    ComposeVariable("MEMORIA_MEMORY_LIMIT", "2g", "Memory limit of the service without vLLM."),
    ComposeVariable(
        "STOP_GRACE_PERIOD",
        "60s",
        "Time to stop before Docker kills the service; must exceed DRAIN_TIMEOUT_S.",
    ),
    ComposeVariable("VLLM_IMAGE", "vllm/vllm-openai:v0.32.0", "Image of the vLLM servers."),
    ComposeVariable("VLLM_EMBED_PORT", "8100", "Port of the embedding vLLM server on the host's 127.0.0.1."),
    ComposeVariable("VLLM_GEN_PORT", "8101", "Port of the generation vLLM server on the host's 127.0.0.1."),
    ComposeVariable(
        "VLLM_RERANK_PORT",
        "8102",
        "Port of the reranking vLLM server on the host's 127.0.0.1. It runs with the profile rerank only; set"
        " RERANK_BACKEND=vllm-http with it.",
    ),
    ComposeVariable(
        "VLLM_EMBED_MEMORY_ARGS",
        "--gpu-memory-utilization 0.2 --kv-cache-memory-bytes 1073741824 --max-model-len 8192"
        " --max-num-batched-tokens 8192 --max-num-seqs 64",
        "Memory flags of the embedding vLLM server; the default suits a GPU with 24 GiB.",
    ),
    ComposeVariable(
        "VLLM_GEN_MEMORY_ARGS",
        "--gpu-memory-utilization 0.65 --kv-cache-memory-bytes 4294967296 --max-model-len 16384"
        " --max-num-batched-tokens 2048 --max-num-seqs 64",
        "Memory flags of the generation vLLM server; the default suits a GPU with 24 GiB.",
    ),
    ComposeVariable(
        "VLLM_RERANK_MEMORY_ARGS",
        "--gpu-memory-utilization 0.08 --kv-cache-memory-bytes 134217728 --max-model-len 4096"
        " --max-num-batched-tokens 4096 --max-num-seqs 64",
        "Memory flags of the reranking vLLM server; the default suits a GPU with 24 GiB.",
    ),
    ComposeVariable(
        "VLLM_EMBED_MODEL_ARGS",
        "--hf-overrides.is_matryoshka true",
        "Flags that the embedding model requires; the default suits Qwen3-Embedding.",
    ),
    ComposeVariable(
        "VLLM_GEN_MODEL_ARGS",
        "--enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3",
        "Flags that the generation model requires; the default suits Qwen3.",
    ),
    ComposeVariable(
        "VLLM_RERANK_MODEL_ARGS",
        "",
        "Flags that the reranking model requires; a cross-encoder such as bge-reranker needs none.",
    ),
    ComposeVariable("VLLM_LOGGING_LEVEL", "INFO", "Log level of the vLLM servers."),
    ComposeVariable("ENGINE_SHM_SIZE", "2gb", "Size of /dev/shm in each container with an engine."),
    ComposeVariable("ENGINE_START_PERIOD", "30m", "Time an engine may take to start, download included."),
    ComposeVariable("GPU_DEVICE", "0", "Index or UUID of the GPU that both engines use."),
    ComposeVariable("HF_CACHE", "hub", "Folder of the Hugging Face cache on the host, or the name of a volume."),
    ComposeVariable("HF_TOKEN", "", "Hugging Face token, for gated models."),
    ComposeVariable("HF_HUB_OFFLINE", "0", "1 to use only models in HF_CACHE, without contacting the hub."),
    ComposeVariable(
        "COLLECTOR_IMAGE",
        "otel/opentelemetry-collector-contrib:0.158.0",
        "Image of the OpenTelemetry collector, profile observability.",
    ),
    ComposeVariable("PROMETHEUS_IMAGE", "prom/prometheus:v3.13.3", "Image of Prometheus, profile observability."),
    ComposeVariable("GRAFANA_IMAGE", "grafana/grafana:12.4.4", "Image of Grafana, profile observability."),
    ComposeVariable(
        "PHOENIX_IMAGE", "arizephoenix/phoenix:version-20.4.0", "Image of Phoenix, profile observability."
    ),
    ComposeVariable("PROMETHEUS_PORT", "9090", "Port of Prometheus on 127.0.0.1."),
    ComposeVariable("GRAFANA_PORT", "3000", "Port of Grafana on 127.0.0.1."),
    ComposeVariable("GRAFANA_PASSWORD", "admin", "Initial password of Grafana's user admin."),
    ComposeVariable("PHOENIX_PORT", "6006", "Port of Phoenix on 127.0.0.1."),
)


def table(variables: Iterable[Variable | ComposeVariable]) -> str:
    """A table of variables in Markdown."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    rows += [
        f"| `{variable.name}` | {f'`{variable.default}`' if variable.default else ''} | {variable.about} |"
        for variable in variables
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(COMPOSE_VARIABLES), end="")
