"""Results of real models are correct."""

import math

import pytest
from openai import OpenAI

from tests.processes import ServiceProcess

pytestmark = pytest.mark.integration

EMBED, GENERATE = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"
SENTENCES = [
    "A cat sits on the mat.",
    "The stock market fell sharply on Monday.",
    "Vector search finds passages that mean the same in other words.",
    "kitten",
]


@pytest.fixture(scope="module")
def client(real_service: ServiceProcess) -> OpenAI:
    return OpenAI(base_url=f"{real_service.url}/v1", api_key="unused")


def embed(client: OpenAI, texts: list[str]) -> list[list[float]]:
    return [item.embedding for item in client.embeddings.create(model=EMBED, input=texts).data]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_a_kitten_is_nearer_to_a_cat_than_to_revenue(client: OpenAI) -> None:
    kitten, cat, revenue = embed(client, ["kitten", "cat", "revenue"])
    assert cosine(kitten, cat) > cosine(kitten, revenue) + 0.2


def test_vectors_equal_the_reference_implementation(client: OpenAI) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from adapters.models.packaged import PACKAGED_MODELS
    from app.settings import load_settings

    folder = load_settings({}).cache_dir / "models" / PACKAGED_MODELS[EMBED].folder_name
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).float()
    for text, served in zip(SENTENCES, embed(client, SENTENCES), strict=True):
        tokens = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            # The model's pooling: the mean over all tokens.
            reference = model(**tokens).last_hidden_state.mean(dim=1)[0].tolist()
        assert cosine(served, reference) >= 0.9999


def test_the_capital_of_france_is_paris(client: OpenAI) -> None:
    answer = client.completions.create(
        model=GENERATE, prompt="The capital of France is", max_tokens=3, temperature=0
    )
    assert answer.choices[0].text.startswith(" Paris")


def test_streamed_text_equals_the_unstreamed_text(client: OpenAI) -> None:
    question = {"model": GENERATE, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
    chunks = list(client.completions.create(**question, stream=True))
    assert len(chunks) > 10
    whole = client.completions.create(**question).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole


def test_the_same_seed_gives_the_same_text(client: OpenAI) -> None:
    def complete(seed: int) -> str:
        answer = client.completions.create(
            model=GENERATE, prompt="My favourite animal is", max_tokens=16, temperature=1, seed=seed
        )
        return answer.choices[0].text

    assert complete(1) == complete(1)
    assert len({complete(seed) for seed in range(4)}) > 1


def test_both_models_serve_concurrently(client: OpenAI) -> None:
    stream = client.completions.create(
        model=GENERATE, prompt="Count: 1, 2, 3,", max_tokens=32, temperature=0, stream=True
    )
    next(iter(stream))
    assert len(embed(client, SENTENCES)) == len(SENTENCES)
    assert "".join(chunk.choices[0].text for chunk in stream)
