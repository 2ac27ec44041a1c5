"""A generation: tokens come in from the engine's thread, responses go out from the responder's.

A response wakes three processes up, and costs 1 ms of CPU where a model's weights have gone through
their caches meanwhile. So a stream gets one an interval at most, and tokens that come in between
share it; the first token and the end do not wait. Tokens that come while a response is being sent
share the next one as well, so that responses never hold up the engine.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from backends.contract import names
from backends.contract.errors import EngineError
from backends.contract.requests import GenerationRequest
from backends.contract.responses import (
    FinishReason,
    Logprob,
    ResponseChunk,
    encode_response,
    prompt_logprobs_json,
)
from backends.engine import EngineRequest, Token
from backends.serving.prompt import Prompt
from backends.serving.responder import Call, Responder, response
from backends.text.detokenizer import Detokenizer, RawDecoder
from backends.text.stop_strings import StopMatcher
from backends.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

CANCEL_CHECK_SECONDS = 0.05
"""A request is asked this often at most whether its client left: the question costs 85 us."""
UNSENT_TOKENS = 32
"""Nobody waits for a token of an answer that is sent whole: this many are looked at at once. (With
stop strings or ids each one is, as it may be the last.)"""


class Generation(Call):
    """A request between the engine, which puts tokens, and its response sender.

    It is accepted first, and `begin` is called when its prompt has been read.
    """

    engine_request: EngineRequest

    def __init__(
        self,
        request_id: str,
        sender: Any,  # noqa: ANN401
        responder: Responder,
        tokenizer: Tokenizer,
        run_apart: Callable[[Callable[[], None]], None],
    ) -> None:
        """Accept a request. ``run_apart`` runs work in another thread, which would delay others."""
        super().__init__(request_id, sender, responder)
        self._tokenizer = tokenizer
        self._run_apart = run_apart
        self._inbox: deque[tuple[Token, FinishReason | None] | EngineError] = deque()
        self._queued = False
        self._begun = False
        self._read_apart = False  # the first token is

    def begin(self, request: GenerationRequest, prompt: Prompt) -> EngineRequest:
        sampling = request.sampling
        self._request = request
        self._skips_special_tokens = sampling.skip_special_tokens
        decoder = self._tokenizer if self._skips_special_tokens else RawDecoder(self._tokenizer)
        self._detokenizer = Detokenizer(decoder, prompt.ids)
        self._stops = StopMatcher(sampling.stop, include=sampling.include_stop_str_in_output)
        self._tokens = self._characters = 0  # of the answer, before any stop string is cut off
        for token_id in request.resume_token_ids:  # what was held back then is held back again
            self._push(self._detokenizer.push(token_id))
        self._may_wait = not (request.stream or sampling.stop or sampling.stop_token_ids)
        self._cumulative_logprob = 0.0
        self._num_input_tokens = len(prompt.ids)
        self._chunk = self._new_chunk(request.prompt if request.prepend_input else "")
        self._chunk.in_reasoning = prompt.in_reasoning
        self._chunk.prompt_token_ids = prompt.ids
        if sampling.prompt_logprobs is not None and len(prompt.ids) == 1:
            self._chunk.prompt_logprobs = prompt_logprobs_json([])
        self.engine_request = EngineRequest(
            prompt.ids,
            sampling,
            self,
            list(request.resume_token_ids),
            scheduling=request.scheduling,
            arrived=self.arrived,
        )
        self._begun = True
        return self.engine_request

    def put(self, token: Token, finish_reason: FinishReason | None) -> None:
        self._inbox.append((token, finish_reason))
        if finish_reason is not None:
            self._wake_to_end()
        elif not self._may_wait or len(self._inbox) >= UNSENT_TOKENS:
            self._wake()

    def fail(self, error: EngineError) -> None:
        if not self._begun:
            return super().fail(error)
        self._inbox.append(error)
        self._wake_to_end()

    def _wake(self) -> None:
        # Without a lock: `flush` clears the mark before it empties the inbox, so an item put
        # while it runs is either taken by it or queues the generation once more.
        if not self._queued:
            self._queued = True
            self._responder.enqueue(self)

    # --- the responder's thread -----------------------------------------------------------------

    def flush(self) -> None:
        """Take what has come and send it as one response."""
        self._queued = False
        if not self._begun:
            return super().flush()
        if self._read_apart or self.closed:
            return
        if self.cancelled:
            return self._send_usage()
        for _ in range(len(self._inbox)):  # no more: an engine may be faster than this
            if self.closed:
                return
            item = self._inbox.popleft()
            if isinstance(item, EngineError):
                if self._request.stream and self._chunk.text:
                    self._send(final=False)  # what came before the error is the client's
                return self.close(item)
            if item[0].prompt:
                return self._add_apart(*item)
            self._add(*item)
        if self._chunk.finish_reason is not None:
            return self._send(final=True)
        if self._request.stream and self._chunk.text:
            self._send(final=False)
            if self._responder.enqueue_later(self):
                self._queued = True
        self.check_cancelled(CANCEL_CHECK_SECONDS)

    def _add_apart(self, token: Token, finish_reason: FinishReason | None) -> None:
        """Add the first token in another thread: the prompt's log probabilities come with it."""

        def add() -> None:
            try:
                entries = [self._logprobs(part) for part in token.prompt]
                self._chunk.prompt_logprobs = prompt_logprobs_json(entries)
                self._add(token, finish_reason)
            except Exception as error:
                logger.exception("log probabilities could not be written")
                self._inbox.appendleft(EngineError(f"{type(error).__name__}: {error}"))
            self._read_apart = False
            self._responder.enqueue(self)

        self._read_apart = True
        self._run_apart(add)

    def _add(self, token: Token, finish_reason: FinishReason | None) -> None:
        chunk = self._chunk
        if chunk.finish_reason is not None:
            return  # generated between a stop string and the engine's hearing of it
        chunk.token_ids.append(token.id)
        self._add_logprobs(token)
        ends = token.id in self._request.sampling.stop_token_ids
        finish_reason = "stop" if ends else finish_reason
        chunk.text_offsets.append(self._characters)
        text, stopped = self._push(self._text_of(token, finish_reason))
        if finish_reason and not stopped:
            rest, stopped = self._stops.push(self._detokenizer.flush())
            text += rest if stopped else rest + self._stops.flush()
        chunk.text += text
        if stopped or ends:
            self.engine_request.cancelled = True
        chunk.finish_reason = "stop" if stopped else finish_reason

    def _push(self, text: str) -> tuple[str, bool]:
        """Return what may be sent after a token's text, and whether a stop string has ended it."""
        self._tokens += 1
        self._characters += len(text)
        return self._stops.push(text, stops=self._tokens > self._request.sampling.min_tokens)

    def _text_of(self, token: Token, finish_reason: FinishReason | None) -> str:
        """Return a token's text, but for the token that ends an answer, which is no part of it."""
        sampling = self._request.sampling
        ends = token.id in sampling.stop_token_ids or (
            not self._skips_special_tokens and self._tokenizer.is_special(token.id)
        )
        if finish_reason == "stop" and ends and not sampling.include_stop_str_in_output:
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
        """Return the log probability of the token itself, then those of its alternatives."""
        assert token.logprob is not None
        top = [(id_, p, rank) for rank, (id_, p) in enumerate(token.top, 1) if id_ != token.id]
        return [
            Logprob(id_, p, rank, *self._tokenizer.token(id_))
            for id_, p, rank in [(token.id, token.logprob, token.rank), *top]
        ]

    def _new_chunk(self, text: str | None = "") -> ResponseChunk:
        wants = (
            names.LOGPROBS in self._request.returns and self._request.sampling.logprobs is not None
        )
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
        if chunk.prompt_token_ids is not None:  # it is the first one
            chunk.queue_depth = self.engine_request.queue_depth
            chunk.queue_wait_ms = round(self.engine_request.queue_wait * 1000)
        message = response(encode_response(chunk, self._request.returns))
        if final:
            self._finish(message)
        else:
            self._sender.send(message)

    def _send_usage(self) -> None:
        """End a cancelled request with its usage.

        That is the tokens that were generated and not sent, and the prompt's if it was computed.
        """
        chunk = self._chunk
        chunk.text, chunk.finish_reason = "", None
        chunk.token_ids += [item[0].id for item in self._inbox if isinstance(item, tuple)]
        if not self.engine_request.started:
            chunk.num_input_tokens = 0
        self._send(final=True)

    def _finish(self, last: Any) -> None:  # noqa: ANN401
        super()._finish(last)
        if self._begun:
            self.engine_request.cancelled = True  # does nothing where the engine is done with it
