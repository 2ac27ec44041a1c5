"""Export of Hugging Face models to ONNX, verified against PyTorch, with what Triton needs to serve
them. The command is `converters.export_onnx`.

One package for each kind of export, none of which imports another:

- `decoder`: language models, with the KV cache among the graph's inputs and outputs
- `encoder`: text encoders, with pooling in the graph, and sequence classifiers
- `plain`: any model, from ``input_ids`` and ``attention_mask`` to its output

What they stand on:

- `forward_pass`: building and checking a graph without a KV cache, for `encoder` and `plain`
- `common`: options, errors, reports, and the reading and quantizing of models, for all kinds

`demo` is the training of the demo model, and no part of an export.
"""
