"""The servers of one role as one backend: each with its breaker, balanced if there are several, with retries."""

import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import httpx
import msgspec

from adapters.retrying import RetryingBackend
from adapters.vllm.http.backend import VLLMHTTPBackend
from adapters.vllm.http.server import Timeouts
from domain.policies.balancing import BalancingBackend
from domain.policies.circuit_breaker import CircuitBreaker
from domain.policies.fault_tolerance import FaultTolerance
from domain.policies.member import LoneMember, Member
from domain.policies.retry_budget import RetryBudget
from domain.port import InferenceBackend
from domain.roles import Role


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for all servers of a role."""

    model: str | None
    api_key: str | None
    tokenizer: str | None
    fault_tolerance: FaultTolerance
    transport: Callable[[], httpx.AsyncBaseTransport] | None = None
    """Makes what requests are sent through, for each server; None for the usual."""


def servers(role: Role, urls: Sequence[str], options: ServerOptions, *, setting: str) -> InferenceBackend:
    """The stack for one role; nothing is sent yet.

    Args:
        role: what the model is for.
        urls: one address for each server.
        options: what holds for all of them.
        setting: the variable that the addresses come from, for messages.
    """
    kind = LoneMember if len(urls) == 1 else Member
    members = [_member(kind, role, url, options) for url in urls]
    balancer = BalancingBackend(members, setting=setting) if len(members) > 1 else None
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
        transport=options.transport() if options.transport is not None else None,
    )
    breaker = CircuitBreaker(
        time.monotonic, failures=limits.breaker_failures, cool_down_s=limits.breaker_cool_down_s
    )
    return kind(backend, address=_address(url), breaker=breaker, clock=time.monotonic)


def _address(url: str) -> str:
    """Host and port, without what else an address may hold, such as a password."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
