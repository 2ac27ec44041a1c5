"""Language models as ONNX graphs: on Triton's onnxruntime backend, or in this process."""

DECODER_VERSION = "1"
"""The version of a decoder's Triton model: exports have one."""
