"""vLLM servers reached over HTTP."""
