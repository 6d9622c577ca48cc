"""Adapter for vLLM in this process. The engine core runs in a child process that ends with this one."""
