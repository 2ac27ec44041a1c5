"""A request from the moment it is accepted to its last response, and the thread that responds."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from backends.contract import names
from backends.contract.errors import Cancelled, EngineError, ShuttingDown

logger = logging.getLogger(__name__)

Outputs: TypeAlias = Sequence[tuple[str, NDArray[Any]]]
"""Tensors by name."""

CANCEL_SCAN_SECONDS = 0.05
"""Requests that send no tokens (in preparation, queued, in prefill, not streamed) are checked this
often for a client that has left, ..."""
CANCEL_SCAN_REQUESTS = 16
"""... this many of them at a time, in turn: checks of very many must not delay their tokens."""


class Call:
    """A request that Triton waits for.

    It is answered once, by the responder's thread alone; its other methods are for any thread.
    """

    def __init__(self, request_id: str, sender: Any, responder: Responder) -> None:  # noqa: ANN401
        self.request_id = request_id
        self.cancelled = False
        self.ends = False  # the next response is the last one
        self.closed = False
        self._sender = sender
        self._responder = responder
        self._outcome: Outputs | EngineError | None = None
        self.arrived = self._checked = time.monotonic()

    @property
    def left(self) -> bool:
        """Return whether nobody waits for an answer any more."""
        return self.cancelled or self.closed

    def raise_if_left(self) -> None:
        """Raise `Cancelled` if nobody waits for an answer: between two steps of long work."""
        if self.left:
            raise Cancelled("the request was cancelled")

    def answer(self, outputs: Outputs) -> None:
        """Answer with the only response."""
        self._outcome = outputs
        self._wake_to_end()

    def answer_text(self, body: bytes) -> None:
        self.answer([(names.TEXT_OUTPUT, np.array([body], np.object_))])

    def fail(self, error: EngineError) -> None:
        self._outcome = error
        self._wake_to_end()

    def settle(self, result: bytes | EngineError) -> None:
        """Answer with a result, or fail, as engines report it."""
        if isinstance(result, EngineError):
            self.fail(result)
        else:
            self.answer_text(result)

    def cancel(self) -> None:
        self.cancelled = True
        self._wake_to_end()

    def _wake_to_end(self) -> None:
        self.ends = True
        self._responder.enqueue(self)

    # --- the responder's thread -----------------------------------------------------------------

    def flush(self) -> None:
        """Send what there is."""
        if self.closed:
            return
        if self.cancelled:
            self._finish(None)
        elif isinstance(self._outcome, EngineError):
            self.close(self._outcome)
        elif self._outcome is not None:
            self._finish(response(self._outcome))

    def check_cancelled(self, interval: float) -> None:
        """End the request if its client has left; check at most once an ``interval`` seconds."""
        now = time.monotonic()
        if not self.closed and now - self._checked >= interval:
            self._checked = now
            if self._sender.is_cancelled():
                self._finish(None)

    def close(self, error: EngineError) -> None:
        """Answer with an error."""
        if not self.closed:
            self._finish(failure(error))

    def _finish(self, last: Any) -> None:  # noqa: ANN401
        """Send the ``last`` response, or none, and end."""
        self.closed = True
        self._responder.forget(self)
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if last is None:
            self._sender.send(flags=final)
        else:
            self._sender.send(last, flags=final)


def response(outputs: Outputs) -> Any:  # noqa: ANN401
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs])


def failure(error: EngineError) -> Any:  # noqa: ANN401
    status = getattr(pb_utils.TritonError, error.status)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(error.wire_text, status))


class Responder:
    """The one thread that sends responses, at most one an ``interval`` seconds to a stream."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._later: OrderedDict[Call, float] = OrderedDict()  # the times of their turns
        self._active: dict[Call, None] = {}  # in the order in which they are asked
        self._thread = threading.Thread(target=self._run, name="responder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def enqueue(self, call: Call) -> None:
        """Flush the call as soon as its interval allows, or at once if it ends."""
        self._queue.put(call)

    def enqueue_later(self, call: Call) -> bool:
        """Flush the call when its interval is over; return False if there is no interval.

        Called by the responder's thread, after a response of a stream.
        """
        if self._interval:
            self._later[call] = time.monotonic() + self._interval
        return self._interval > 0

    def add(self, call: Call) -> None:
        self._active[call] = None
        self._queue.put(call)  # nothing to send yet, but its client may leave

    def forget(self, call: Call) -> None:
        self._active.pop(call, None)
        self._later.pop(call, None)

    def __len__(self) -> int:
        return len(self._active)

    def cancel(self, request_id: str) -> int:
        """End the requests with this id; return how many there are."""
        found = [call for call in list(self._active) if call.request_id == request_id]
        for call in found:
            call.cancel()
        return len(found)

    def stop(self) -> None:
        """Send what is queued, end the rest with `ShuttingDown`, and join the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        next_scan = 0.0
        while True:
            try:
                call = self._queue.get(timeout=self._patience(next_scan))
                if call is None:
                    break
                if call.ends or call not in self._later:
                    self._guard(call, call.flush)
            except queue.Empty:
                pass
            now = time.monotonic()
            while self._next_turn <= now:
                call, _ = self._later.popitem(last=False)
                self._guard(call, call.flush)
            if now >= next_scan:
                next_scan = now + CANCEL_SCAN_SECONDS
                self._scan()
        for call in list(self._active):
            self._guard(call, call.close, ShuttingDown("the model is being unloaded"))

    def _patience(self, next_scan: float) -> float | None:
        """Return the seconds until there is something to do, None if there is no request."""
        if not self._active:
            return None
        return max(min(self._next_turn, next_scan) - time.monotonic(), 0)

    @property
    def _next_turn(self) -> float:
        return next(iter(self._later.values()), math.inf)

    def _scan(self) -> None:
        for call in list(self._active)[:CANCEL_SCAN_REQUESTS]:
            self._active.pop(call, None)
            if call.closed:
                continue
            self._active[call] = None
            self._guard(call, call.check_cancelled, CANCEL_SCAN_SECONDS)

    @staticmethod
    def _guard(call: Call, action: Any, *args: object) -> None:  # noqa: ANN401
        """Run an action; one request's failure must not end the thread that serves all of them."""
        try:
            action(*args)
        except Exception as error:
            logger.exception("sending a response failed")
            try:
                call.close(EngineError(f"sending the response failed: {error}"))
            except Exception:
                logger.exception("and so did sending the error")
