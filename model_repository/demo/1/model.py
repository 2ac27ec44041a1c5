from backends.pytorch.model import TritonPythonModel  # noqa: F401
