"""Values of settings that other modules compare with."""

INPROCESS, HTTP, OFF = "vllm-inprocess", "vllm-http", "off"
"""Values of `EMBED_BACKEND` and its like, apart from the path of a factory."""
AUTO = "auto"
"""As a backend: in process, but off for an optional role whose model is not named."""
