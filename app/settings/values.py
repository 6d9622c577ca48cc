"""Values of settings that other modules compare with or take apart."""

INPROCESS, HTTP, OFF = "vllm-inprocess", "vllm-http", "off"
"""What `EMBED_BACKEND` and its like may say, beside the path of a factory."""
