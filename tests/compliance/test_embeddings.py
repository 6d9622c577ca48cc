import array
import base64

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.compliance.conftest import EMBED, GENERATE
from tests.compliance.schemas import assert_matches

pytestmark = pytest.mark.integration


def test_a_string(client: OpenAI) -> None:
    answer = client.embeddings.create(model=EMBED, input="Hello")
    assert (answer.object, answer.model, len(answer.data)) == ("list", EMBED, 1)
    assert (answer.data[0].object, answer.data[0].index) == ("embedding", 0)
    assert len(answer.data[0].embedding) == 384
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3


def test_strings_keep_their_order(client: OpenAI) -> None:
    texts = ["one", "two", "three"]
    together = client.embeddings.create(model=EMBED, input=texts)
    assert [item.index for item in together.data] == [0, 1, 2]
    alone = client.embeddings.create(model=EMBED, input="three")
    assert together.data[2].embedding == pytest.approx(alone.data[0].embedding, abs=1e-5)


def test_token_ids_and_lists_of_token_ids(client: OpenAI) -> None:
    # [CLS] hello [SEP] in the model's vocabulary
    ids = [101, 7592, 102]
    text = client.embeddings.create(model=EMBED, input="hello").data[0].embedding
    one = client.embeddings.create(model=EMBED, input=ids).data
    two = client.embeddings.create(model=EMBED, input=[ids, ids]).data
    assert (len(one), len(two)) == (1, 2)
    assert one[0].embedding == pytest.approx(text, abs=1e-5)
    assert two[1].embedding == pytest.approx(text, abs=1e-5)


def test_base64_holds_the_same_numbers_as_float(http: httpx.Client) -> None:
    def ask(encoding_format: str) -> object:
        body = {"model": EMBED, "input": "Hello", "encoding_format": encoding_format}
        answer = http.post("/v1/embeddings", json=body).json()
        assert_matches("CreateEmbeddingResponse", answer, but_embeddings_may_be_text=True)
        return answer["data"][0]["embedding"]

    numbers, text = ask("float"), ask("base64")
    assert isinstance(text, str)
    assert array.array("f", base64.b64decode(text)).tolist() == pytest.approx(numbers, abs=1e-6)


def test_float_is_the_default_of_the_protocol(http: httpx.Client) -> None:
    answer = http.post("/v1/embeddings", json={"model": EMBED, "input": "Hello"}).json()
    assert isinstance(answer["data"][0]["embedding"], list)


def test_user_and_nulls_are_accepted(http: httpx.Client) -> None:
    body = {"model": EMBED, "input": "x", "user": "me", "dimensions": None, "encoding_format": None}
    assert http.post("/v1/embeddings", json=body).status_code == 200


def test_2048_inputs_are_answered_completely(client: OpenAI) -> None:
    answer = client.embeddings.create(model=EMBED, input=["a"] * 2048)
    assert [item.index for item in answer.data] == list(range(2048))


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ["a"] * 2049}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [[1], "a"]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [999_999]}, "input"),
        ({"input": "x " * 600}, "input"),
        ({"dimensions": 100}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"user": 1}, "user"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_invalid_value_is_a_400_that_names_the_parameter(
    http: httpx.Client, change: dict[str, object], param: str
) -> None:
    answer = http.post("/v1/embeddings", json={"model": EMBED, "input": "x"} | change)
    assert answer.status_code == 400
    assert_matches("ErrorResponse", answer.json())
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_too_long_an_input_has_openais_code(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.embeddings.create(model=EMBED, input="word " * 1000)
    assert caught.value.code == "context_length_exceeded"


def test_the_generation_model_does_not_embed(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="generation model"):
        client.embeddings.create(model=GENERATE, input="x")


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.embeddings.create(model="text-embedding-3-small", input="x")
    assert caught.value.code == "model_not_found"
    assert EMBED in str(caught.value)
