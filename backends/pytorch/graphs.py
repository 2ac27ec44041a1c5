"""Functions over static buffers that are captured once and then replayed.

A decode step of a small model is a thousand kernels, and launching them from Python takes longer
than running them. A CUDA graph is launched as a whole, with the arguments that its kernels had at
capture: the same shapes, and the same memory, to which new inputs are copied.

`CudaGraphs` is tested in ``tests/gpu``. All the rest is tested on a CPU as well, with functions
that are only called again (`no_capture`) and with ones that are recorded and replayed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

import torch

Function: TypeAlias = Callable[[], None]
"""A function that reads and writes tensors that stay where they are. It has no result: any other
replay may overwrite the tensors that it allocates."""

Capture: TypeAlias = Callable[[Function], Function]
"""Calls a function once or more, and returns a function that repeats what it did. Raises what the
function or the capture raises."""


def no_capture(function: Function) -> Function:
    """Return the function itself, to be called again. Implements `Capture` without capturing."""
    return function


class CudaGraphs:
    """The `Capture` of CUDA. All graphs share one memory pool, so that one at a time may run.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Function) -> Function:
        """Return the replay of a function, which is called three times, on another stream."""
        with torch.cuda.device(self._device):
            before = torch.cuda.current_stream()
            self._stream.wait_stream(before)
            try:
                # The exit also restores the stream that a failed capture leaves changed.
                with torch.cuda.stream(self._stream):
                    function()  # libraries allocate their handles and workspaces
                    with _forbid_synchronisation():
                        function()
                    return self._capture(function).replay
            finally:
                before.wait_stream(self._stream)

    def _capture(self, function: Function) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may allocate memory meanwhile.
            with torch.cuda.graph(graph, self._pool, self._stream, "thread_local"):
                function()
        except Exception:
            # The generator's state is still that of a capture, and drawing from it would fail:
            # https://github.com/ace-step/ACE-Step-1.5/issues/587
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(generator.clone_state())
            self._abandon_pool()
            raise
        return graph

    def _abandon_pool(self) -> None:
        """Take another memory pool after a failed capture, which leaves its pool open.

        Seen with PyTorch 2.11 on an H100: the next capture into the same pool raises
        "beginAllocateToPool: already recording to mempool_id".
        """
        with suppress(AttributeError, RuntimeError):  # a private function: not all versions have it
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
        self._pool = torch.cuda.graph_pool_handle()


@contextmanager
def _forbid_synchronisation() -> Iterator[None]:
    """Raise RuntimeError for operations that wait for the GPU (``.item()``, a branch on a tensor).

    They cannot be captured. Found out here, that does no harm; found out during a capture, it
    leaves CUDA's state inconsistent.
    """
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
