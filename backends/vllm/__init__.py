"""vLLM's `AsyncLLM` behind the tensor contract."""
