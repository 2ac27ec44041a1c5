from backends.vllm.model import TritonPythonModel  # noqa: F401
