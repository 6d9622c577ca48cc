"""`POST /v1/embeddings`: what is accepted and what is answered.

Source: OpenAI's schemas `CreateEmbeddingRequest` and `CreateEmbeddingResponse`. openai-python asks for
base64 whenever its caller names no format, so both encodings are hot.
"""

import base64
from typing import Annotated, Literal, cast

import msgspec

from domain.errors import InvalidRequestError
from domain.openai.common import PromptInput, as_prompts, check_truncation
from domain.openai.field import about
from domain.requests import EmbeddingRequest
from domain.results import EmbeddingResult

MAX_INPUTS = 2048


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to embed inputs."""

    model: Annotated[str, about("Name or alias of the embedding model.")]
    input: Annotated[
        PromptInput,
        about("Text, texts, token ids or lists of token ids; at most 2,048, and 300,000 tokens together."),
    ]
    dimensions: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None,
        about("Length of the vectors, for models trained for several (Matryoshka)."),
    ] = None
    encoding_format: Annotated[Literal["float", "base64"] | None, about("`float` unless `base64`.")] = None
    user: Annotated[str | None, about("There is nobody to tell.", effect="none")] = None

    add_special_tokens: Annotated[
        bool | None, about("Whether the tokenizer adds its own to a text.", vllm=True)
    ] = None
    truncate_prompt_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | None,
        about("Cut longer inputs to so many tokens; -1 for what the context holds.", vllm=True),
    ] = None

    def to_request(self) -> EmbeddingRequest:
        """The domain's request.

        Raises:
            InvalidRequestError: an empty, mixed or too long `input`, or one that would be cut to nothing.
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
    """Tokens of all inputs; there is no completion, so both numbers agree."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """One vector: numbers, or base64 of its little-endian float32 bytes."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def embedding_response(
    result: EmbeddingResult, model: str, encoding_format: Literal["float", "base64"] | None
) -> EmbeddingResponse:
    """The answer for a result, in the format that the client asked for; float unless it said base64."""
    row_bytes = result.dimensions * 4
    rows = memoryview(result.vectors)
    data: list[Embedding] = []
    for index, start in enumerate(range(0, len(rows), row_bytes)):
        row = rows[start : start + row_bytes]
        vector: list[float] | str
        if encoding_format == "base64":
            vector = base64.b64encode(row).decode("ascii")
        else:
            # typeshed knows of no format but bytes.
            vector = cast(list[float], row.cast("f").tolist())
        data.append(Embedding(index=index, embedding=vector))
    usage = EmbeddingUsage(prompt_tokens=result.prompt_tokens, total_tokens=result.prompt_tokens)
    return EmbeddingResponse(data=data, model=model, usage=usage)
