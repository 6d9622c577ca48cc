"""Adapters for vLLM, in this process or over HTTP."""
