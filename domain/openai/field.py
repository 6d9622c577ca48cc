"""What is told of a request field: in the OpenAPI document, and in the table of parameters."""

from typing import Literal

import msgspec

Effect = Literal["honoured", "none", "refused"]

EFFECT = "x-effect"
FROM_VLLM = "x-vllm"


def about(text: str, *, effect: Effect = "honoured", vllm: bool = False) -> msgspec.Meta:
    """Says what a field does.

    Args:
        text: one sentence, for the reader of the table.
        effect: honoured, accepted without effect, or refused unless it is null.
        vllm: whether the field is vLLM's addition; else it is OpenAI's.
    """
    extra: dict[str, object] = {EFFECT: effect}
    if vllm:
        extra[FROM_VLLM] = True
    return msgspec.Meta(description=text, extra_json_schema=extra)
