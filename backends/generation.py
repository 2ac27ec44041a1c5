"""A request in flight: tokens come in from the engine's thread, responses go out from one of ours.

A response wakes three processes up, and costs 1 ms of CPU where a model's weights have gone through
their caches meanwhile. So a stream gets one an interval at most, and tokens that come in between
share it; the first token and the end do not wait. Tokens that come while a response is being sent
share the next one as well, so that responses never hold up the engine.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import OrderedDict, deque
from typing import Any

import triton_python_backend_utils as pb_utils

from backends.contract import (
    FinishReason,
    GenerationRequest,
    Logprob,
    ResponseChunk,
    encode_response,
)
from backends.engine import EngineRequest, Token
from backends.errors import EngineError, ShuttingDown
from backends.text import Detokenizer, StopMatcher, Tokenizer, Verbatim

logger = logging.getLogger(__name__)

CANCEL_CHECK_SECONDS = 0.05
"""A request is asked this often at most whether its client left: the question costs 85 us."""
CANCEL_SCAN_SECONDS = 0.05
"""Requests that send no tokens (queued, in prefill, not streamed) are asked this often, ..."""
UNSENT_TOKENS = 32
"""Nobody waits for a token of an answer that is sent whole: this many are looked at at once. (With
stop strings or ids each one is, as it may be the last.)"""
CANCEL_SCAN_REQUESTS = 16
"""... this many of them at a time, in turn: a crowd's questions must not hold up its tokens."""


class Generation:
    """One request between the engine, which puts tokens, and its response sender."""

    def __init__(
        self,
        request_id: str,
        request: GenerationRequest,
        prompt_ids: list[int],
        tokenizer: Tokenizer,
        responder: Responder,
        sender: Any,  # noqa: ANN401
        *,
        in_reasoning: bool | None = None,
    ) -> None:
        self.request_id = request_id
        self._request = request
        self._tokenizer = tokenizer
        self._responder = responder
        self._sender = sender
        self._skips_special_tokens = request.sampling.skip_special_tokens
        decoder = tokenizer if self._skips_special_tokens else Verbatim(tokenizer)
        self._detokenizer = Detokenizer(decoder, prompt_ids)
        self._stops = StopMatcher(request.sampling.stop)
        for token_id in request.resume_token_ids:  # what was held back then is held back again
            self._stops.push(self._detokenizer.push(token_id))
        sampling = request.sampling
        self._may_wait = not (request.stream or sampling.stop or sampling.stop_token_ids)
        self._inbox: deque[tuple[Token, FinishReason | None] | EngineError] = deque()
        self._queued = False
        self._cancelled = False
        self._checked = time.monotonic()
        self._cumulative_logprob = 0.0
        self._num_input_tokens = len(prompt_ids)
        self._chunk = self._new_chunk(request.prompt if request.prepend_input else "")
        self._chunk.in_reasoning = in_reasoning
        self.ends = False  # the next response is the last one
        self.closed = False
        self.engine_request = EngineRequest(
            prompt_ids, request.sampling, self, list(request.resume_token_ids)
        )

    def put(self, token: Token, finish_reason: FinishReason | None) -> None:
        self._inbox.append((token, finish_reason))
        if finish_reason is not None:
            self._wake_to_end()
        elif not self._may_wait or len(self._inbox) >= UNSENT_TOKENS:
            self._wake()

    def fail(self, error: EngineError) -> None:
        self._inbox.append(error)
        self._wake_to_end()

    def cancel(self) -> None:
        self._cancelled = True
        self._wake_to_end()

    def _wake(self) -> None:
        # Without a lock: `flush` clears the mark before it empties the inbox, so an item put
        # while it runs is either taken by it or queues the generation once more.
        if not self._queued:
            self._queued = True
            self._responder.enqueue(self)

    def _wake_to_end(self) -> None:
        self.ends = True
        self._responder.enqueue(self)

    def flush(self) -> None:
        """Take what has come and send it as one response. Called by the responder alone."""
        self._queued = False
        if self._cancelled and not self.closed:
            return self._send_usage()
        for _ in range(len(self._inbox)):  # no more: an engine may be faster than this
            if self.closed:
                return
            item = self._inbox.popleft()
            if isinstance(item, EngineError):
                if self._request.stream and self._chunk.text:
                    self._send(final=False)  # what came before the error is the client's
                return self.close(item)
            self._add(*item)
        if self.closed:
            return
        if self._chunk.finish_reason is not None:
            return self._send(final=True)
        if self._request.stream and self._chunk.text:
            self._send(final=False)
            if self._responder.enqueue_later(self):
                self._queued = True
        self.check_cancelled(CANCEL_CHECK_SECONDS)

    def _add(self, token: Token, finish_reason: FinishReason | None) -> None:
        chunk = self._chunk
        if chunk.finish_reason is not None:
            return  # generated between a stop string and the engine's hearing of it
        chunk.token_ids.append(token.id)
        if token.prompt:
            chunk.prompt_logprobs = [self._logprobs(part) for part in token.prompt]
        self._add_logprobs(token)
        ends = token.id in self._request.sampling.stop_token_ids
        finish_reason = "stop" if ends else finish_reason
        text, stopped = self._stops.push(self._text_of(token, finish_reason))
        if finish_reason and not stopped:
            rest, stopped = self._stops.push(self._detokenizer.flush())
            text += rest if stopped else rest + self._stops.flush()
        chunk.text += text
        if stopped or ends:
            self.engine_request.cancelled = True
        chunk.finish_reason = "stop" if stopped else finish_reason

    def _text_of(self, token: Token, finish_reason: FinishReason | None) -> str:
        """The token that ends an answer is no part of it, though others of its kind may be."""
        if finish_reason == "stop" and (
            token.id in self._request.sampling.stop_token_ids
            or (not self._skips_special_tokens and self._tokenizer.is_special(token.id))
        ):
            return ""
        return self._detokenizer.push(token.id)

    def _add_logprobs(self, token: Token) -> None:
        if token.logprob is None:
            return
        self._cumulative_logprob += token.logprob
        self._chunk.cumulative_logprob = self._cumulative_logprob
        if self._chunk.logprobs is not None:
            self._chunk.logprobs.append(self._logprobs(token))

    def _logprobs(self, token: Token) -> list[Logprob]:
        """The token itself, then its alternatives."""
        assert token.logprob is not None
        top = [(id_, p, rank) for rank, (id_, p) in enumerate(token.top, 1) if id_ != token.id]
        return [
            Logprob(id_, p, rank, *self._tokenizer.token(id_))
            for id_, p, rank in [(token.id, token.logprob, token.rank), *top]
        ]

    def _new_chunk(self, text: str | None = "") -> ResponseChunk:
        wants = "logprobs" in self._request.returns and self._request.sampling.logprobs is not None
        return ResponseChunk(
            text or "",
            [],
            None,
            self._num_input_tokens,
            logprobs=[] if wants else None,
            cumulative_logprob=self._cumulative_logprob,
        )

    def _send(self, *, final: bool) -> None:
        chunk, self._chunk = self._chunk, self._new_chunk()
        tensors = [
            pb_utils.Tensor(name, value)
            for name, value in encode_response(chunk, self._request.returns)
        ]
        response = pb_utils.InferenceResponse(tensors)
        if final:
            self._finish(response)
        else:
            self._sender.send(response)

    def _send_usage(self) -> None:
        """End a request that was cancelled by telling what it took: the tokens that were generated
        and not sent, and the prompt's if it was computed."""
        chunk = self._chunk
        chunk.text, chunk.finish_reason = "", None
        chunk.token_ids += [item[0].id for item in self._inbox if isinstance(item, tuple)]
        if not self.engine_request.started:
            chunk.num_input_tokens = 0
        self._send(final=True)

    def check_cancelled(self, interval: float) -> None:
        """Drop the request if its client has left; asks at most once an ``interval`` seconds."""
        now = time.monotonic()
        if not self.closed and now - self._checked >= interval:
            self._checked = now
            if self._sender.is_cancelled():
                self._finish(None)

    def close(self, error: EngineError) -> None:
        """Answer with an error."""
        if not self.closed:
            self._finish(pb_utils.InferenceResponse(error=triton_error(error)))

    def abandon(self) -> None:
        """Forget the request without an answer: the engine has not taken it."""
        self.closed = True
        self._responder.forget(self)

    def _finish(self, response: Any) -> None:  # noqa: ANN401
        self.closed = True
        self.engine_request.cancelled = True  # does nothing where the engine is done with it
        self._responder.forget(self)
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if response is None:
            self._sender.send(flags=final)
        else:
            self._sender.send(response, flags=final)


def triton_error(error: EngineError) -> Any:  # noqa: ANN401
    message = str(error).encode(errors="backslashreplace").decode()  # a lone surrogate would not go
    return pb_utils.TritonError(message, getattr(pb_utils.TritonError, error.status))


class Responder:
    """The one thread that sends responses. ``interval``: seconds between two of a stream."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._queue: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._later: OrderedDict[Generation, float] = OrderedDict()  # the times of their turns
        self._active: dict[Generation, None] = {}  # in the order in which they are asked
        self._thread = threading.Thread(target=self._run, name="responder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def enqueue(self, generation: Generation) -> None:
        """It is flushed as soon as its interval allows, or at once where it ends."""
        self._queue.put(generation)

    def enqueue_later(self, generation: Generation) -> bool:
        """After a response of a stream: it is flushed when its interval is over. False: there is
        no interval. Called by the responder's thread."""
        if self._interval:
            self._later[generation] = time.monotonic() + self._interval
        return self._interval > 0

    def add(self, generation: Generation) -> None:
        self._active[generation] = None
        self._queue.put(generation)  # nothing to send yet, but its client may leave

    def forget(self, generation: Generation) -> None:
        self._active.pop(generation, None)
        self._later.pop(generation, None)

    def __len__(self) -> int:
        return len(self._active)

    def cancel(self, request_id: str) -> int:
        """End the requests with this id; how many there are."""
        found = [g for g in list(self._active) if g.request_id == request_id]
        for generation in found:
            generation.cancel()
        return len(found)

    def stop(self) -> None:
        """Send what is queued, end the rest with `ShuttingDown`, and join the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        next_scan = 0.0
        while True:
            try:
                generation = self._queue.get(timeout=self._patience(next_scan))
                if generation is None:
                    break
                if generation.ends or generation not in self._later:
                    self._guard(generation, generation.flush)
            except queue.Empty:
                pass
            now = time.monotonic()
            while self._next_turn <= now:
                generation, _ = self._later.popitem(last=False)
                self._guard(generation, generation.flush)
            if now >= next_scan:
                next_scan = now + CANCEL_SCAN_SECONDS
                self._scan()
        for generation in list(self._active):
            self._guard(generation, generation.close, ShuttingDown("the model is being unloaded"))

    def _patience(self, next_scan: float) -> float | None:
        """Seconds until there is something to do; None where there is no request."""
        if not self._active:
            return None
        return max(min(self._next_turn, next_scan) - time.monotonic(), 0)

    @property
    def _next_turn(self) -> float:
        return next(iter(self._later.values()), math.inf)

    def _scan(self) -> None:
        for generation in list(self._active)[:CANCEL_SCAN_REQUESTS]:
            self._active.pop(generation, None)
            if generation.closed:
                continue
            self._active[generation] = None
            self._guard(generation, generation.check_cancelled, CANCEL_SCAN_SECONDS)

    @staticmethod
    def _guard(generation: Generation, call: Any, *args: object) -> None:  # noqa: ANN401
        """One request's failure must not end the thread that serves all of them."""
        try:
            call(*args)
        except Exception as error:
            logger.exception("sending a response failed")
            try:
                generation.close(EngineError(f"sending the response failed: {error}"))
            except Exception:
                logger.exception("and so did sending the error")
