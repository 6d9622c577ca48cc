"""Fifty users at once: everyone is answered, and rightly."""

import asyncio

import pytest
from openai import AsyncOpenAI

from tests.processes import ServiceProcess

pytestmark = pytest.mark.integration

EMBED, GENERATE = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"
USERS = 50


@pytest.mark.parametrize("stream", [False, True])
async def test_fifty_users_at_once_are_all_answered(real_service: ServiceProcess, stream: bool) -> None:
    async with AsyncOpenAI(base_url=f"{real_service.url}/v1", api_key="unused", max_retries=0) as client:

        async def complete() -> str:
            ask = {"model": GENERATE, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
            if not stream:
                return (await client.completions.create(**ask)).choices[0].text
            chunks = await client.completions.create(**ask, stream=True)
            return "".join([chunk.choices[0].text async for chunk in chunks])

        async def embed(number: int) -> int:
            answer = await client.embeddings.create(model=EMBED, input=[f"text {number}"] * 2)
            return len(answer.data)

        texts, counts = await asyncio.gather(
            asyncio.gather(*(complete() for _ in range(USERS))),
            asyncio.gather(*(embed(number) for number in range(USERS))),
        )
    assert set(counts) == {2}
    assert all(text.startswith(" Paris") for text in texts)
