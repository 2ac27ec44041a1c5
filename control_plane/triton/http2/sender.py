"""The requests' way out, as fast as the server's windows allow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from control_plane.triton.http2 import frames
from control_plane.triton.http2.call import Call


class Sender:
    """The sender of a connection. It writes no more than the server allows, so what waits in the
    transport is bounded by that."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.initial_window = frames.DEFAULT_WINDOW
        self._transport = transport
        self._window = frames.DEFAULT_WINDOW
        self._max_frame = frames.DEFAULT_FRAME_SIZE
        self._blocked: dict[int, Call] = {}  # in the order in which they came to wait

    def begin(self, call: Call) -> None:
        block = frames.header_frames(call.stream_id, call.headers, self._max_frame)
        self._transport.write(block)
        self._send(call)

    def allowed(self, increment: int, call: Call | None) -> None:
        """Note that a window has grown: that of a call, or of the connection."""
        if call is None:
            self._window += increment
        else:
            call.window += increment
        self._send_blocked()

    def apply(self, settings: Mapping[int, int], calls: Iterable[Call]) -> None:
        self._max_frame = settings.get(frames.MAX_FRAME_SIZE, self._max_frame)
        change = settings.get(frames.INITIAL_WINDOW_SIZE, self.initial_window) - self.initial_window
        self.initial_window += change
        for call in calls:
            call.window += change  # below 0 is possible: then it has to grow first
        self._send_blocked()

    def forget(self, call: Call) -> None:
        self._blocked.pop(call.stream_id, None)

    def _send_blocked(self) -> None:
        for call in list(self._blocked.values()):
            self._send(call)

    def _send(self, call: Call) -> None:
        while call.unsent:
            size = min(len(call.unsent), call.window, self._window, self._max_frame)
            if size <= 0:
                self._blocked[call.stream_id] = call
                return
            part, call.unsent = call.unsent[:size], call.unsent[size:]
            flags = 0 if call.unsent else frames.END_STREAM
            self._transport.write(frames.frame(frames.DATA, flags, call.stream_id, part))
            call.window -= size
            self._window -= size
        self._blocked.pop(call.stream_id, None)
