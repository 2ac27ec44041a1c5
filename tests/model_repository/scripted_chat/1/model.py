from backends.scripted.model import TritonPythonModel  # noqa: F401
