from backends.onnx.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
