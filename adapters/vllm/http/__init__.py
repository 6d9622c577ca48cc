"""Adapters for vLLM servers over HTTP."""
