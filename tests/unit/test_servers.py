"""The layers that are built for the servers of a role."""

import pytest

from adapters.retrying import RetryingBackend
from adapters.vllm.http.backend import VLLMHTTPBackend
from adapters.vllm.http.provider import ServerOptions, build_servers
from app.bootstrap import build_service
from app.settings import load_settings
from domain.policies.balancing import BalancingBackend
from domain.policies.fault_tolerance import FaultTolerance
from domain.policies.member import LoneMember
from domain.policies.wrapper import layer
from domain.roles import Role


def built(*urls: str, retries: int = 2):
    return build_servers(Role.EMBED, ServerOptions(urls=urls, fault_tolerance=FaultTolerance(retries=retries)))


def test_one_server_needs_no_balancer():
    stack = built("http://a:1")
    assert isinstance(stack, RetryingBackend)
    assert layer(stack, BalancingBackend) is None
    assert layer(stack, LoneMember) is not None
    assert layer(stack, VLLMHTTPBackend) is not None


def test_several_servers_are_balanced():
    stack = built("http://a:1", "http://b:2")
    assert isinstance(stack, RetryingBackend)
    assert isinstance(layer(stack, BalancingBackend), BalancingBackend)


def test_without_retries_there_is_no_retrying_layer():
    assert isinstance(built("http://a:1", retries=0), LoneMember)
    assert isinstance(built("http://a:1", "http://b:2", retries=0), BalancingBackend)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a:1/v1", "a:1"),
        ("http://a", "a:80"),
        ("https://a", "a:443"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://user:secret@a:1", "a:1"),
    ],
)
def test_an_address_is_host_and_port_and_nothing_secret(url, address):
    (member,) = layer(built(url), LoneMember).members()
    assert member.address == address


async def test_settings_reach_the_servers_and_health_shows_them():
    environ = {
        "EMBED_BACKEND": "vllm-http",
        "GEN_BACKEND": "vllm-http",
        "VLLM_EMBED_URL": "http://a:1,http://b:2",
        "EMBED_CACHE": "1MiB",
    }
    service = build_service(load_settings(environ))
    health = service.health().backends
    assert [member.address for member in health[Role.EMBED].members] == ["a:1", "b:2"]
    assert [member.address for member in health[Role.GENERATE].members] == ["127.0.0.1:8101"]
    await service.stop()
