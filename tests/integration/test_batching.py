"""Batching of several clients' requests for a real vLLM server: each gets the result that it would get alone."""

import array
import asyncio
from pathlib import Path

import pytest

from adapters.vllm.http.backend import VLLMHTTPBackend
from app.commands.bench.tiny_models import CORPUS, MAX_MODEL_LEN
from domain.errors import ContextLengthError
from domain.policies.batching import BatchingBackend
from domain.port import RequestContext
from domain.requests import EmbeddingRequest
from domain.results import EmbeddingResult
from domain.roles import Role

pytestmark = pytest.mark.integration

CONTEXT = RequestContext(request_id="batching")


def cosine(one: EmbeddingResult, other: EmbeddingResult) -> float:
    a, b = array.array("f", one.vectors), array.array("f", other.vectors)
    assert len(a) == len(b)
    rows = len(a) // one.dimensions
    return sum(x * y for x, y in zip(a, b, strict=True)) / rows


async def test_batched_requests_get_their_own_vectors_tokens_and_errors(
    vllm_servers: dict[Role, str], tiny_models: dict[str, Path]
) -> None:
    plain = VLLMHTTPBackend(role=Role.EMBED, base_url=vllm_servers[Role.EMBED])
    card = await plain.start()
    assert card.reports_tokens_per_input, "the server's model is on this machine, and so is its tokenizer"
    batching = BatchingBackend(plain)
    await batching.start()
    words = " ".join(CORPUS).split()
    inputs = [[" ".join(words[start : start + count]) for start in range(count)] for count in range(1, 40)]
    too_long = len(inputs) // 2
    inputs[too_long] = ["word " * MAX_MODEL_LEN]

    async def ask(backend, position: int) -> EmbeddingResult | Exception:
        try:
            return await backend.call(EmbeddingRequest(inputs=inputs[position]), CONTEXT)
        except ContextLengthError as error:
            return error

    together = await asyncio.gather(*(ask(batching, position) for position in range(len(inputs))))
    assert batching.batched >= len(inputs) - 2
    alone = [await ask(plain, position) for position in range(len(inputs))]
    for position, (found, expected) in enumerate(zip(together, alone, strict=True)):
        if position == too_long:
            assert isinstance(found, ContextLengthError)
            continue
        assert found.prompt_tokens == expected.prompt_tokens
        assert found.input_tokens == expected.input_tokens
        assert cosine(found, expected) > 0.9999
    await batching.stop()


async def test_a_tokenizer_that_differs_from_the_servers_is_not_used(
    vllm_servers: dict[Role, str], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    other = Tokenizer(models.WordLevel({"x": 0, "[UNK]": 1}, unk_token="[UNK]"))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    other.save(str(tmp_path / "tokenizer.json"))
    for folder in (tmp_path, tmp_path / "nothing"):
        backend = VLLMHTTPBackend(role=Role.EMBED, base_url=vllm_servers[Role.EMBED], tokenizer=str(folder))
        assert not (await backend.start()).reports_tokens_per_input
        await backend.stop()
