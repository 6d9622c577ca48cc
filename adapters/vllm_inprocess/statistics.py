"""What vLLM counts while it works."""

from typing import Any

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase


class NoStatistics(StatLoggerBase):  # type: ignore[misc]
    """Counts nothing. That there is one lets vLLM note the moments of each request, which its spans tell."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:
        """See vLLM."""

    def record(self, *_args: Any, **_kwargs: Any) -> None:
        """See vLLM."""

    def log_engine_initialized(self) -> None:
        """See vLLM."""


def stat_loggers(config: VllmConfig) -> list[Any] | None:
    """What counts for an engine; None where nobody wants to know."""
    return [NoStatistics] if config.observability_config.otlp_traces_endpoint is not None else None
