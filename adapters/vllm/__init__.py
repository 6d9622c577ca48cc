"""vLLM, in this process or behind HTTP."""
