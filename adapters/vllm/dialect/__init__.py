"""What both adapters know of vLLM: names, flags, sentences and limits."""
