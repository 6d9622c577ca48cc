"""Descriptions of request fields, for the OpenAPI document and the parameter tables."""

from typing import Literal

import msgspec

Effect = Literal["honored", "none", "refused"]

EFFECT = "x-effect"
FROM_VLLM = "x-vllm"


def describe(text: str, *, effect: Effect = "honored", vllm: bool = False) -> msgspec.Meta:
    """Describe a request field.

    Args:
        text: one sentence for the parameter tables.
        effect: honored, accepted without effect, or refused unless it is null.
        vllm: whether the field is an addition of vLLM rather than OpenAI's.
    """
    extra: dict[str, object] = {EFFECT: effect}
    if vllm:
        extra[FROM_VLLM] = True
    return msgspec.Meta(description=text, extra_json_schema=extra)
