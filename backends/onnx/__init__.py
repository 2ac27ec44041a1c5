"""Language models as ONNX graphs: on Triton's onnxruntime backend, or in this process."""
