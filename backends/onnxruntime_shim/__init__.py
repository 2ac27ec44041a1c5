"""A shim for Triton's native onnxruntime backend, used where that is not installed.

Triton loads a folder ``<backend directory>/<name>/`` with a ``model.py`` as the backend ``<name>``,
so the same model folder runs here and on NVIDIA's C++ backend. Configuration keys, defaults and
errors are those of https://github.com/triton-inference-server/onnxruntime_backend.

There are two differences. Implicit state (``sequence_batching.state``) stays in this process, so
the configuration that is loaded need not list it: it is read from the model's ``config.pbtxt``.
And with the parameter ``kv_cache`` = ``in_place``, a decoder's KV cache is never copied.
"""
