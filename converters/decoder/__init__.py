"""Export of causal language models with a KV cache.

`export.export_decoder` goes through these steps:

1. `source` reads the model and what its layers cache.
2. `builder` (onnxruntime-genai's model builder) or `dynamo` (PyTorch's exporter, over
   `static_cache`) makes a graph.
3. `graph` and `last_token` edit it into what is served.
4. `verify` compares it with the model through `session`; `measure` measures quality and speed.
5. `triton_entry` writes the two models of the repository.
"""
