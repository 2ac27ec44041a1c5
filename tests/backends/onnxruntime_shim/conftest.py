"""One Triton with models of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from onnx import TensorProto

from tests.support import onnx_models, toy_decoder
from tests.support.triton import Triton, triton_server

CPU = "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
# Long enough for the requests that a test sends at a time.
TOGETHER = "dynamic_batching { max_queue_delay_microseconds: 100000 }\n"
STATE = """
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  oldest { max_candidate_sequences: 8 }
%s}
"""
ACCUMULATOR = """max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "total" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
ACCUMULATOR_STATE = """  state {
    input_name: "past" output_name: "present" data_type: TYPE_FP32 dims: [ 2 ]
    initial_state { data_type: TYPE_FP32 dims: [ 2 ] zero_data: true name: "zero" }
  }
"""
HISTORY = """max_batch_size: 8
input [ { name: "x" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "all" data_type: TYPE_INT64 dims: [ -1 ] } ]
"""
HISTORY_STATE = """  state {
    input_name: "past" output_name: "present" data_type: TYPE_INT64 dims: [ -1 ]
    initial_state { data_type: TYPE_INT64 dims: [ 0 ] zero_data: true name: "zero" }
  }
"""


CONTROLLED = """max_batch_size: 4
input [ { name: "x" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "count" data_type: TYPE_INT32 dims: [ 2 ] } ]
sequence_batching {
  direct { }
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT32 } ] }
  ]
"""
CONTROLLED_STATE = """  state {
    input_name: "past" output_name: "present" data_type: TYPE_INT32 dims: [ 1 ]
    initial_state { data_type: TYPE_INT32 dims: [ 1 ] zero_data: true name: "zero" }
  }
"""


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    any_shape = ("batch", "n")
    for name, graph, config in (
        ("matmul", onnx_models.matmul()[0], CPU + "max_batch_size: 16\n" + TOGETHER),
        ("strings", onnx_models.identity(TensorProto.STRING, any_shape), CPU),
        ("halves", onnx_models.identity(TensorProto.FLOAT16, any_shape), CPU),
        ("fixed", onnx_models.identity(TensorProto.INT32, (2, 3)), CPU),
        ("statistics", onnx_models.statistics(), CPU + "max_batch_size: 8\n" + TOGETHER),
        ("lookup", onnx_models.lookup(10)[0], CPU + "max_batch_size: 8\n" + TOGETHER),
    ):
        onnx_models.entry(folder, name, graph, config)
    for name, graph, config, state in (
        ("accumulator", onnx_models.accumulator(), ACCUMULATOR, ACCUMULATOR_STATE),
        ("history", onnx_models.history(), HISTORY, HISTORY_STATE),
    ):
        embedded = CPU + config + STATE % ""
        onnx_models.entry(folder, name, graph, CPU + config + STATE % state, embedded)
    native, embedded = f"{CPU}{CONTROLLED}{CONTROLLED_STATE}}}\n", f"{CPU}{CONTROLLED}}}\n"
    onnx_models.entry(folder, "counter", onnx_models.counter(), native, embedded)
    for name, slots, idle in (("decoder", toy_decoder.SLOTS, 60_000_000), ("brief", 2, 500_000)):
        native, embedded = toy_decoder.configs(slots, idle)
        onnx_models.entry(folder, name, toy_decoder.decoder(), native, embedded)
    return folder


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Triton]:
    folder = tmp_path_factory.mktemp("triton")
    with triton_server(folder, repository, "*") as server:
        yield server


@pytest.fixture
def client(triton: Triton) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        yield client
