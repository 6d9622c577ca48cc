"""Builds the backend of a role that one or more vLLM servers serve.

Each server has a circuit breaker, several servers are load balanced, and retries wrap them all.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import msgspec

from adapters.retrying import RetryingBackend
from adapters.vllm.http.backend import VLLMHTTPBackend
from adapters.vllm.http.server import Timeouts
from adapters.vllm.http.tracing import TracedTransport
from adapters.vllm.http.transport import PooledTransport
from domain.policies.balancing import BalancingBackend
from domain.policies.circuit_breaker import CircuitBreaker
from domain.policies.fault_tolerance import FaultTolerance
from domain.policies.member import LoneMember, Member
from domain.policies.retry_budget import RetryBudget
from domain.port import InferenceBackend
from domain.roles import ROLES, Role

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The servers of a role, and their common options."""

    urls: Sequence[str]
    """The base URL of each server."""
    model: str | None = None
    api_key: str | None = None
    tokenizer: str | None = None
    fault_tolerance: FaultTolerance = FaultTolerance()
    tracer_provider: "TracerProvider | None" = None
    """Receives the spans of requests; None disables tracing."""


def build_servers(role: Role, options: ServerOptions) -> InferenceBackend:
    """Build one backend for the servers of a role, without connecting."""
    urls = options.urls
    kind = LoneMember if len(urls) == 1 else Member
    members = [_member(kind, role, url, options) for url in urls]
    balancer = BalancingBackend(members, setting=f"VLLM_{ROLES[role].prefix}_URL") if len(members) > 1 else None
    backend: InferenceBackend = balancer or members[0]
    limits = options.fault_tolerance
    if not limits.retries:
        return backend
    return RetryingBackend(
        backend,
        retries=limits.retries,
        budget=RetryBudget(time.monotonic, share=limits.retry_share),
        **({"has_free": balancer.has_free} if balancer is not None else {}),
    )


def _member(kind: type[Member], role: Role, url: str, options: ServerOptions) -> Member:
    limits = options.fault_tolerance
    backend = VLLMHTTPBackend(
        role=role,
        base_url=url,
        model=options.model,
        api_key=options.api_key,
        tokenizer=options.tokenizer,
        timeouts=Timeouts(limits.connect_timeout_s, limits.read_timeout_s),
        transport=_transport(options.tracer_provider),
    )
    breaker = CircuitBreaker(
        time.monotonic, failures=limits.breaker_failures, cool_down_s=limits.breaker_cool_down_s
    )
    return kind(backend, address=_address(url), breaker=breaker, clock=time.monotonic)


def _transport(tracer_provider: "TracerProvider | None") -> httpx.AsyncBaseTransport | None:
    """A transport that traces requests; None for the default one."""
    return None if tracer_provider is None else TracedTransport(PooledTransport(), tracer_provider)


def _address(url: str) -> str:
    """Host and port of a URL, without other parts such as a password."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
