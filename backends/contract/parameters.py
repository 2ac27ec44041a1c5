"""The keys of ``parameters`` in ``config.pbtxt``, and the defaults of those that have one.

A value is always a string there: a number in decimal digits, a flag as ``true`` or ``false``, an
object or a list as JSON. Whoever writes or reads a key takes its name from here. The settings of
an engine whose keys are parameters of the same name (``serving.pytorch``, ``serving.vllm``) need
no constant for being written.
"""

from __future__ import annotations

# Of every Python model.

MODEL = "model"
"""Text: where the weights are, or the tokenizer of a model whose weights are in a graph. It is a
folder beside ``model.py``, a folder anywhere, or a hub id. Default: `DEFAULT_MODEL`."""
DEFAULT_MODEL = "weights"

SERVED_MODEL_NAME = "served_model_name"
"""Text: the name that clients use. Default: the Triton model's name."""

BACKEND_TYPE = "backend_type"
"""Text: the name of the engine that the model runs on. Default: not said; the control plane then
takes a model of ONNX Runtime for one by its decoder, and applies its first engine's settings to
any other."""

CONTRACT = "contract"
"""Text: which tensors the model has, those of a `LANGUAGE_MODEL` or of a `TEXT_ENCODER`. By it the
control plane completes the configuration, and Triton need not ask the model, which takes it more
than a second. Default: not said; Triton asks."""
LANGUAGE_MODEL = "language_model"
TEXT_ENCODER = "text_encoder"

NUM_THREADS = "num_threads"
"""Integer: CPU threads of one operation; 0: all cores, or vLLM's own choice.
Default: `DEFAULT_NUM_THREADS`."""
DEFAULT_NUM_THREADS = 0

SPIN_COUNT = "spin_count"
"""Integer: how many times a thread without work looks for some before it sleeps
(``GOMP_SPINCOUNT``). Default: `DEFAULT_SPIN_COUNT`."""
DEFAULT_SPIN_COUNT = 1000
"""Long enough for the gaps between the operations of a step, short beside a turn of the scheduler:
a thread that spins keeps another process's thread, or its own model's, from the core."""

ALLOW_PICKLE_WEIGHTS = "allow_pickle_weights"
"""Flag: weights that are pickles are read, though they can run code. Default: false."""

RESTARTED_AT = "restarted_at"
"""Text: when the control plane loaded the model again after a failure, in seconds since 1970. It is
given back by ``describe``. Default: not said."""

# Of every language model: they stand in front of the engine.

STREAM_INTERVAL_MS = "stream_interval_ms"
"""Integer: milliseconds between two responses of a stream; 0: a response for each token.
Default: `DEFAULT_STREAM_INTERVAL_MS`."""
DEFAULT_STREAM_INTERVAL_MS = 20
"""50 events a second: nobody reads faster."""

ALLOW_CONTROL_TOKENS = "allow_control_tokens"
"""Flag: the spelling of a control token in a chat message is that token. Default: false."""

ENABLE_STREAMING = "enable_streaming"
"""Flag: answers may be streamed; false: ``stream`` is refused. Default: true."""

SERVING_PARAMETERS = frozenset({STREAM_INTERVAL_MS, ALLOW_CONTROL_TOKENS})
"""Those that are settings of the same names in ``serving``, for all engines alike."""

# Of the batching engine: PyTorch, and ONNX Runtime.

MAX_NUM_SEQS = "max_num_seqs"
"""Integer: sequences that are decoded at once (rows at once, of an encoder). Default:
`DEFAULT_MAX_NUM_SEQS` on PyTorch, `VLLM_MAX_NUM_SEQS` on vLLM; a decoder's graph has a fixed number
of them, which is always given."""
DEFAULT_MAX_NUM_SEQS = 16

MAX_QUEUE_SIZE = "max_queue_size"
"""Integer: sequences that may wait; one more is refused. Default: `DEFAULT_MAX_QUEUE_SIZE`. Of an
encoder: requests in work or waiting. Default: `ENCODER_MAX_QUEUE_SIZE`. Of vLLM:
`VLLM_MAX_QUEUE_SIZE`."""
DEFAULT_MAX_QUEUE_SIZE = 256
ENCODER_MAX_QUEUE_SIZE = 1024

BATCH_WINDOW_MS = "batch_window_ms"
"""Integer: milliseconds for which an engine that computes nothing gathers requests; 0: none.
Default: `DEFAULT_BATCH_WINDOW_MS`."""
DEFAULT_BATCH_WINDOW_MS = 0

ADAPTIVE_BATCH_WINDOW = "adaptive_batch_window"
"""Flag: that time follows the requests, so that a lone one does not wait. Default: true."""

PREFILL_CHUNK_TOKENS = "prefill_chunk_tokens"
"""Integer: prompt tokens that are computed between two tokens of running sequences; 0: 128 on a
CPU, 1024 on a GPU. Default: `DEFAULT_PREFILL_CHUNK_TOKENS`."""
DEFAULT_PREFILL_CHUNK_TOKENS = 0

# Of PyTorch.

DEVICE = "device"
"""Text: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Default: auto."""

TORCH_DTYPE = "torch_dtype"
"""Text: ``auto``, ``float32``, ``bfloat16`` or ``float16``. Default: auto."""

OPTIMIZATION_LEVEL = "optimization_level"
"""Text: ``auto``, ``O0``, ``O1``, ``O2`` or ``O3``. Default: auto."""

QUANTIZATION = "quantization"
"""Text: ``none`` or ``int8``. Default: none."""

COMPILE_MODEL = "compile_model"
"""Flag: ``torch.compile`` of the feed-forward parts. Default: false."""

CUDA_GRAPHS = "cuda_graphs"
"""Text: ``auto``, ``true`` or ``false``. Default: auto."""

MAX_MODEL_LEN = "max_model_len"
"""Integer: tokens of a prompt and its answer together. Default: the model's own context length, or
what the memory allows; on vLLM `VLLM_MAX_MODEL_LEN`, or the model's own if that is less."""

MEMORY_UTILIZATION = "memory_utilization"
"""Fraction above 0, of the memory: what weights and KV cache may take.
Default: `DEFAULT_MEMORY_UTILIZATION`."""
DEFAULT_MEMORY_UTILIZATION = 0.9

# Of the model in front of an ONNX graph. Those without a default have to be given.

DECODER = "decoder"
"""Text: the Triton model that holds a language model's graph."""

DECODER_CONFIG = "decoder_config"
"""JSON object: the configuration of that model. The model in front then runs the graph itself, on
the CPU, and the decoder need not be loaded. Default: not given."""

ENCODER = "encoder"
"""Text: the Triton model that holds an encoder's or a classifier's graph."""

CALLED_MODELS = (DECODER, ENCODER)
"""Parameters that name a Triton model, beside the one that has them, which that one calls."""

CONTEXT_LENGTH = "context_length"
"""Integer: tokens that fit into a decoder's state, or of one text for an encoder."""

VOCAB_SIZE = "vocab_size"
"""Integer: how many logits a decoder gives for each token."""

EOS_TOKEN_IDS = "eos_token_ids"
"""Integers, separated by commas: the token ids that end an answer. Default: none."""

CHUNKED_PREFILL = "chunked_prefill"
"""Flag: a prompt may be computed in parts. Default: false."""

MODEL_PARAMETERS = "model_parameters"
"""Integer: how many weights the model has, for ``describe``."""

DTYPE = "dtype"
"""Text: the datatype of the weights, for ``describe``. Default: float32."""

INPUT_NAMES = "input_names"
"""Text, separated by commas: an encoder graph's inputs, of ``input_ids``, ``attention_mask`` and
``token_type_ids``."""

PAD_TOKEN_ID = "pad_token_id"
"""Integer: the token id that fills up shorter texts of an encoder's batch."""

MAX_BATCH_SIZE = "max_batch_size"
"""Integer: texts that an encoder's graph takes at once."""

EMBEDDING_DIMENSION = "embedding_dimension"
"""Integer: numbers of an encoder's embedding. Default: found out when the model is loaded."""

LABELS = "labels"
"""JSON list of texts: a classifier's labels, by number. An encoder has none."""

SCORE = "score"
"""Text: how a classifier's logits become a score, ``softmax``, ``sigmoid`` or ``none``."""

# Of the model that is a graph: parameters of Triton's onnxruntime backend, and one of the shim's.

INTRA_OP_THREAD_COUNT = "intra_op_thread_count"
"""Integer: CPU threads within one operator; 0: ONNX Runtime's choice. Default: 0."""

INTER_OP_THREAD_COUNT = "inter_op_thread_count"
"""Integer: operators that run in parallel; 0: ONNX Runtime's choice. Default: 0."""

EXECUTION_MODE = "execution_mode"
"""``0``: one operator after the other; ``1``: several in parallel. Default: 0."""

KV_CACHE = "kv_cache"
"""Text: `IN_PLACE`, and nothing else. Of `backends.onnxruntime_shim` alone: the graph's states are
a KV cache, which stays where it is. Default: states are copied in each step."""
IN_PLACE = "in_place"

# Of vLLM: any other parameter is an engine argument.

LORA_MODULES = "lora_modules"
"""JSON object: names of LoRA adapters to their folders. Default: none."""

VLLM_MAX_NUM_SEQS = 256
VLLM_MAX_QUEUE_SIZE = 1024
VLLM_GPU_MEMORY_UTILIZATION = 0.9
VLLM_MAX_MODEL_LEN = 2048

# Triton's Python backend itself reads these.

EXECUTION_ENV_PATH = "EXECUTION_ENV_PATH"
"""Text: the virtual environment, a folder, whose Python the model's process runs. Default: the one
that the server finds.
https://github.com/triton-inference-server/python_backend#creating-custom-execution-environments"""

FORCE_CPU_ONLY_INPUT_TENSORS = "FORCE_CPU_ONLY_INPUT_TENSORS"
"""``yes`` or ``no``: inputs are copied to the CPU before the model gets them. Default: yes."""
