"""Functions over static buffers that can be replayed.

A decode step of a small model is a thousand kernels, and launching them from Python takes longer
than running them. A CUDA graph is launched once, with what its kernels were given at capture: the
same shapes and the same memory, where new inputs are copied to.

`CudaGraphs` is tested in ``tests/gpu``. All the rest is tested on a CPU as well, with functions
that are only called again (`plain`) and with ones that are recorded and replayed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

import torch

Function: TypeAlias = Callable[[], None]
"""Reads and writes tensors that stay where they are. No result: tensors that are made in it may be
overwritten by any other replay."""

Capture: TypeAlias = Callable[[Function], Function]
"""Calls a function once or more, and returns what does again what it did. Raises whatever comes."""


def plain(function: Function) -> Function:
    """Implements `Capture` by doing nothing: the function is called again."""
    return function


class CudaGraphs:
    """Implements `Capture`. All graphs share one memory pool: one at a time may run.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Function) -> Function:
        with torch.cuda.device(self._device):
            before = torch.cuda.current_stream()
            self._stream.wait_stream(before)
            try:
                # Its exit also undoes the change of stream of a capture that fails.
                with torch.cuda.stream(self._stream):
                    function()  # libraries make their handles and workspaces
                    with _syncs_are_errors():
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
            # The generator still believes that it is being captured, and would draw no more:
            # https://github.com/ace-step/ACE-Step-1.5/issues/587
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(generator.clone_state())
            self._abandon_pool()
            raise
        return graph

    def _abandon_pool(self) -> None:
        """Takes another memory pool after a failed capture, which leaves its pool open.

        Seen with PyTorch 2.11 on an H100: the next capture into the same pool raises
        "beginAllocateToPool: already recording to mempool_id".
        """
        with suppress(AttributeError, RuntimeError):  # a private function: not all versions have it
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
        self._pool = torch.cuda.graph_pool_handle()


@contextmanager
def _syncs_are_errors() -> Iterator[None]:
    """What waits for the GPU (``.item()``, a branch on a tensor) cannot be captured. Found out
    here, it does no harm; found out in a capture, it leaves CUDA in disorder."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
