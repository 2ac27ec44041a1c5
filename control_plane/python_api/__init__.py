"""The Python API: `ModelServer`, `VLLMServer` and `ModelManager`."""
