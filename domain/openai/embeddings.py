"""Request and response schemas of `POST /v1/embeddings`.

Source: OpenAI's schemas `CreateEmbeddingRequest` and `CreateEmbeddingResponse`. openai-python requests base64
unless its caller names a format, so both encodings are performance-critical.
"""

import base64
from typing import Annotated, Literal, cast

import msgspec

from domain.errors import InvalidRequestError
from domain.openai.common import PromptInput, as_prompts, check_truncation
from domain.openai.field import describe
from domain.requests import EmbeddingRequest
from domain.results import EmbeddingResult

MAX_INPUTS = 2048


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of an embedding request."""

    model: Annotated[str, describe("Name or alias of the embedding model.")]
    input: Annotated[
        PromptInput,
        describe(
            "Text, texts, token ids or lists of token ids; at most 2,048 inputs and 300,000 tokens in total."
        ),
    ]
    dimensions: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None,
        describe("Length of the vectors, for models trained for several lengths (Matryoshka)."),
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"] | None, describe("`float` (the default) or `base64`.")
    ] = None
    user: Annotated[str | None, describe("Accepted and ignored.", effect="none")] = None

    add_special_tokens: Annotated[
        bool | None, describe("Whether the tokenizer adds special tokens to a text.", vllm=True)
    ] = None
    truncate_prompt_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | None,
        describe("Truncate inputs to this number of tokens; -1 for the context length.", vllm=True),
    ] = None

    def to_request(self) -> EmbeddingRequest:
        """Convert to the domain's request.

        Raises:
            InvalidRequestError: an empty, mixed or too long `input`, or an invalid `truncate_prompt_tokens`.
        """
        check_truncation(self.truncate_prompt_tokens)
        inputs = as_prompts(self.input, "input")
        if len(inputs) > MAX_INPUTS:
            raise InvalidRequestError(
                f"'input' has {len(inputs)} items; at most {MAX_INPUTS} are allowed. Send them in several "
                "requests.",
                param="input",
                code="array_above_max_length",
            )
        return EmbeddingRequest(
            inputs=inputs,
            dimensions=self.dimensions,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            add_special_tokens=self.add_special_tokens is not False,
        )


class EmbeddingUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all inputs; both numbers are equal, because there is no completion."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """One vector: numbers, or base64 of its little-endian float32 bytes."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def embedding_response(
    result: EmbeddingResult, model: str, encoding_format: Literal["float", "base64"] | None
) -> EmbeddingResponse:
    """The response for a result, with vectors in the requested format; the default is float."""
    row_bytes = result.dimensions * 4
    rows = memoryview(result.vectors)
    data: list[Embedding] = []
    for index, start in enumerate(range(0, len(rows), row_bytes)):
        row = rows[start : start + row_bytes]
        vector: list[float] | str
        if encoding_format == "base64":
            vector = base64.b64encode(row).decode("ascii")
        else:
            # typeshed has no overload for float formats.
            vector = cast(list[float], row.cast("f").tolist())
        data.append(Embedding(index=index, embedding=vector))
    usage = EmbeddingUsage(prompt_tokens=result.prompt_tokens, total_tokens=result.prompt_tokens)
    return EmbeddingResponse(data=data, model=model, usage=usage)
