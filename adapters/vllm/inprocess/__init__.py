"""vLLM in this process: AsyncLLM here, its engine core in a child process that can't outlive this one."""
