"""Knowledge of vLLM that both adapters share: field names, flags, error messages and limits."""
