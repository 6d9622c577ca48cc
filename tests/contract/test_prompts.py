"""Contract of every backend for tokenization, `suffix`, truncation and structured outputs of completions."""

import pytest

from app.commands.bench.tiny_models import CORPUS
from domain.conversation import Conversation, UserMessage
from domain.errors import InvalidRequestError
from domain.requests import DetokenizeRequest, TokenizeRequest
from domain.results import FinishReason
from domain.sampling import StructuredOutputs
from tests.contract.cases import CONTEXT, Case, generate

PROMPT = "The quick brown fox"


async def test_a_text_is_tokenized_and_detokenized(generator: Case) -> None:
    found = await generator.backend.call(TokenizeRequest(prompt=CORPUS[0], with_strings=True), CONTEXT)
    assert found.token_ids == generator.tokenize(CORPUS[0])
    assert found.strings is not None
    assert len(found.strings) == len(found.token_ids)
    assert await generator.backend.call(DetokenizeRequest(token_ids=found.token_ids), CONTEXT) == CORPUS[0]


async def test_an_embedding_model_tokenizes_text(embedder: Case) -> None:
    found = await embedder.backend.call(TokenizeRequest(prompt=CORPUS[1]), CONTEXT)
    assert (found.token_ids, found.strings) == (embedder.tokenize(CORPUS[1]), None)


async def test_tokens_of_a_conversation_match_its_usage(generator: Case) -> None:
    conversation = Conversation(messages=[UserMessage(content="Hello fox")])
    found = await generator.backend.call(TokenizeRequest(prompt=conversation), CONTEXT)
    answer = await generate(generator, conversation, max_tokens=1)
    assert len(found.token_ids) == answer.usage.prompt_tokens


async def test_text_longer_than_the_context_can_be_tokenized(generator: Case) -> None:
    text = "z1" * generator.max_model_len
    found = await generator.backend.call(TokenizeRequest(prompt=text), CONTEXT)
    assert len(found.token_ids) > generator.max_model_len


async def test_token_ids_outside_the_vocabulary_have_no_text(generator: Case) -> None:
    if generator.name == "vllm-http":
        # vLLM's server ignores unknown token ids, and does not report the size of its vocabulary.
        assert (
            await generator.backend.call(DetokenizeRequest(token_ids=[generator.vocabulary + 1000]), CONTEXT) == ""
        )
        return
    with pytest.raises(InvalidRequestError) as caught:
        await generator.backend.call(DetokenizeRequest(token_ids=[1, generator.vocabulary + 1000]), CONTEXT)
    assert caught.value.param == "tokens"


async def test_a_suffix_is_added_to_the_prompt(generator: Case) -> None:
    plain = await generate(generator, PROMPT)
    filled = await generate(generator, PROMPT, suffix=" jumps")
    # Both texts, and three marker tokens.
    assert filled.usage.prompt_tokens == plain.usage.prompt_tokens + len(generator.tokenize(" jumps")) + 3


async def test_a_prompt_is_truncated_on_request(generator: Case) -> None:
    ids = [5] * (generator.max_model_len + 50)
    assert (await generate(generator, ids, truncate_prompt_tokens=7)).usage.prompt_tokens == 7
    filled = await generate(generator, ids, truncate_prompt_tokens=-1, max_tokens=1)
    assert filled.usage.prompt_tokens == generator.max_model_len - 1


async def test_structured_outputs_of_completions_are_followed_or_rejected(generator: Case) -> None:
    form = {"structured_outputs": StructuredOutputs(choice=["yes"]), "max_tokens": 20, "stream": False}
    if generator.name == "vllm-http":
        # A server with a reasoning parser waits for the end of reasoning, which a completion does not have.
        with pytest.raises(InvalidRequestError) as caught:
            await generate(generator, PROMPT, **form)
        assert caught.value.param == "structured_outputs"
        return
    answer = await generate(generator, PROMPT, **form)
    assert (answer.text(), answer.finish_reason) == ("yes", FinishReason.STOP)
