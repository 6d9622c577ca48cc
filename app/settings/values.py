"""Values of settings that other modules compare with."""

INPROCESS, HTTP, OFF = "vllm-inprocess", "vllm-http", "off"
"""Values of `EMBED_BACKEND` and `GEN_BACKEND`, apart from the path of a factory."""
