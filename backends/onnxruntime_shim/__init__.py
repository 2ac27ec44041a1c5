"""A stand-in for Triton's native onnxruntime backend, where that is not installed.

Triton takes a folder ``<backend directory>/<name>/`` with a ``model.py`` as the backend ``<name>``:
the same model folder then runs here and on NVIDIA's C++ backend. Configuration keys, defaults and
refusals are those of https://github.com/triton-inference-server/onnxruntime_backend.

Two things differ. Implicit state (``sequence_batching.state``) stays in this process, so the
configuration that is loaded need not list it: the list is read from the model's ``config.pbtxt``.
And with the parameter ``kv_cache`` = ``in_place``, a decoder's KV cache is never copied.
"""
