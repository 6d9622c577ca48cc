"""Values of settings that other modules compare with or take apart."""

import msgspec

INPROCESS, HTTP, OFF = "vllm-inprocess", "vllm-http", "off"
"""What `EMBED_BACKEND` and its like may say, beside the path of a factory."""


class GpuMemory(msgspec.Struct, frozen=True):
    """GPU memory of one engine: a share of the card, or a size. One of the two is set."""

    fraction: float | None = None
    gib: float | None = None
