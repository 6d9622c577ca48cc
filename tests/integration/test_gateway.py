"""The service as a gateway to external vLLM servers."""

from pathlib import Path

import httpx
import pytest
from openai import APIStatusError, OpenAI

from domain.roles import Role
from tests.conftest import free_port
from tests.processes import ServiceProcess, VLLMServerProcess

pytestmark = pytest.mark.integration


def test_a_gateway_serves_the_servers_models(gateway_service: ServiceProcess) -> None:
    client = OpenAI(base_url=f"{gateway_service.url}/v1", api_key="unused")
    assert [model.id for model in client.models.list()] == ["tiny-embed", "tiny-gen", "tiny-rerank"]
    assert len(client.embeddings.create(model="tiny-embed", input="x").data[0].embedding) == 64
    answer = client.completions.create(model="tiny-gen", prompt="x", max_tokens=4, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


def test_a_gateway_starts_no_process(gateway_service: ServiceProcess) -> None:
    assert gateway_service.engine_processes() == []


def test_a_gateway_reconnects_to_a_restarted_server(
    tiny_models: dict[str, Path], vllm_servers: dict[Role, str]
) -> None:
    port = free_port()
    service = ServiceProcess(
        {
            "EMBED_BACKEND": "vllm-http",
            "GEN_BACKEND": "vllm-http",
            "VLLM_EMBED_URL": f"http://127.0.0.1:{port}/v1",
            "VLLM_GEN_URL": vllm_servers[Role.GENERATE],
            "MODEL_EMBED_NAME": "tiny-embed",
        }
    )
    server = None
    try:
        url = service.wait_until_listening()
        service.wait_for_line("generate +ready")
        health = httpx.get(f"{url}/health", trust_env=False)
        assert health.status_code == 503
        assert health.json()["backends"]["embed"]["reason"] == "The embedding server can't be reached."

        server = VLLMServerProcess(tiny_models["tiny-embed"], port=port, runner="pooling")
        service.wait_until_ready_at(url)
        client = OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
        assert client.embeddings.create(model="tiny-embed", input="x").data

        server.end()
        with pytest.raises(APIStatusError) as caught:
            client.embeddings.create(model="tiny-embed", input="x")
        assert caught.value.status_code == 503
        service.wait_for_line("embed +unavailable")
        answer = client.completions.create(model="tiny-gen", prompt="x", max_tokens=2)
        assert answer.choices[0].finish_reason == "length", "the other role keeps working"
    finally:
        service.end()
        if server is not None:
            server.end()
