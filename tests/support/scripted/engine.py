"""An engine without a model: the prompt says, as JSON, what happens and when.

======================  =====================================================================
tokens                  how many tokens come (64); token ``i`` has the text ``"i "``
first                   the first token's number (0)
interval_ms             time between two tokens (0: as fast as it goes)
delay_ms                time before the first
fail_at                 fail instead of giving this token
hang_at                 give nothing from this token on, until cancelled
exit_at                 end the whole process instead of giving this token
clock                   true: a token's text is the time of its birth, `time.monotonic_ns`
text                    say this, in place of numbers: structure that is asked for is its matter
conversation            reply to it by the rules of `tests.support.scripted.replies`
thinks                  true: the prompt of a chat ends inside of a block of reasoning
piece                   characters of ``text`` in a token (4); ``<|…|>`` is a special token
======================  =====================================================================
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

from backends.contract import names
from backends.contract.chat import ChatOptions, Message, Tool
from backends.contract.errors import EngineError, InvalidField, ShuttingDown
from backends.contract.responses import FinishReason
from backends.engine import Engine, EngineRequest, Token
from backends.text.chat_format import ChatFormat
from backends.tokenizer import RenderedChat
from tests.support.scripted.replies import answer


class Vocabulary:
    """Gives an id to each piece of text that a script says."""

    FIRST = 1 << 21

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._ids: dict[str, int] = {}

    def id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = self.FIRST + len(self._pieces)
            self._pieces.append(piece)
        return self._ids[piece]

    def piece(self, id_: int) -> str | None:
        place = id_ - self.FIRST
        return self._pieces[place] if 0 <= place < len(self._pieces) else None


class ScriptTokenizer:
    """Implements `backends.tokenizer.Tokenizer`: bytes in; numbers, or a script's text, out."""

    characters_per_token = None
    keeps_texts = False

    def __init__(self, vocabulary: Vocabulary, chat_format: ChatFormat) -> None:
        self._vocabulary = vocabulary
        self.chat_format = chat_format

    def encode(
        self, prompt: str, *, add_special_tokens: bool = True, most: int | None = None
    ) -> list[int]:
        return list(prompt.encode())

    def render_chat(
        self, messages: list[Message], tools: list[Tool] | None, options: ChatOptions
    ) -> RenderedChat:
        """The last message where that is a script, and else one that answers the conversation."""
        content: str = messages[-1]["content"]
        if not content.startswith("{"):
            content = json.dumps({"conversation": {"messages": messages, "tools": tools}})
        thinks = bool(json.loads(content).get("thinks"))
        return RenderedChat(content, len(content), in_reasoning=thinks)

    def encode_rendered(
        self, chat: RenderedChat, *, add_special_tokens: bool = False, most: int | None = None
    ) -> list[int]:
        return self.encode(chat.text)

    def encode_continuation(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        skipped = self.is_special if skip_special_tokens else lambda _: False
        return "".join(self.token(id_)[0] for id_ in ids if not skipped(id_))

    def text_offsets(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [at for at, character in enumerate(text) for _ in character.encode()]

    def to_json(self) -> str:
        raise ValueError("a script's tokenizer is not one of the tokenizers library")

    def info(self) -> dict[str, Any]:
        return {"tokenizer_class": type(self).__name__}

    def token(self, id_: int) -> tuple[str, bytes | None]:
        piece = self._vocabulary.piece(id_)
        return (f"{id_} " if piece is None else piece), None

    def name(self, id_: int) -> str:
        return self.token(id_)[0]

    def is_special(self, id_: int) -> bool:
        return bool(_SPECIAL.fullmatch(self.token(id_)[0]))


_SPECIAL = re.compile(r"<\|[^|]*\|>")


def _pieces(text: str, size: int) -> list[str]:
    pieces: list[str] = []
    for part in re.split(f"({_SPECIAL.pattern})", text):
        if _SPECIAL.fullmatch(part):
            pieces.append(part)
        else:
            pieces += [part[at : at + size] for at in range(0, len(part), size)]
    return pieces


class _Script:
    def __init__(self, request: EngineRequest, vocabulary: Vocabulary) -> None:
        try:
            script = json.loads(bytes(request.prompt_ids))
            self.ids: list[int] | None = None
            if "conversation" in script:
                script["text"] = answer(script["conversation"], request.sampling.guided)
            if "text" in script:
                pieces = _pieces(script["text"], int(script.get("piece", 4)))
                self.ids = [vocabulary.id(piece) for piece in pieces]
            script.setdefault("tokens", 64 if self.ids is None else len(self.ids))
            self.tokens = min(int(script["tokens"]), request.sampling.max_tokens)
            self.first = int(script.get("first", 0))
            self.interval = float(script.get("interval_ms", 0)) / 1000
            self.delay = float(script.get("delay_ms", 0)) / 1000
            self.clock = bool(script.get("clock", False))
            self.fail_at, self.hang_at, self.exit_at = (
                script.get(key) for key in ("fail_at", "hang_at", "exit_at")
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidField(names.TEXT_INPUT, f"is not a script: {error}") from None
        self.request = request
        self.made = len(request.output_ids)

    def step(self) -> bool:
        """Give the next token. False: there is nothing more to come."""
        if self.request.cancelled:
            return False
        self.request.started = True
        if self.made == self.exit_at:
            os._exit(1)
        if self.made == self.fail_at:
            self.request.sink.fail(EngineError(f"the script fails at token {self.made}"))
            return False
        if self.made == self.hang_at:
            return True
        token = self._token()
        self.made += 1
        finish_reason: FinishReason | None = None
        if self.made == self.tokens:
            finish_reason = "stop" if self.tokens < self.request.sampling.max_tokens else "length"
        self.request.sink.put(token, finish_reason)
        return finish_reason is None

    def _token(self) -> Token:
        if self.ids is not None:
            id_ = self.ids[self.made]
        else:
            id_ = time.monotonic_ns() if self.clock else self.first + self.made
        if self.request.sampling.logprobs is None:
            return Token(id_)
        return Token(id_, -0.5, 1, ((id_, -0.5),))


class ScriptedEngine(Engine):
    """Implements `backends.engine.Engine`."""

    context_length = 1 << 20
    vocab_size = 1 << 22

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._due: list[tuple[float, int, _Script]] = []
        self._order = itertools.count()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest) -> None:
        script = _Script(request, self._vocabulary)
        if (guided := request.sampling.guided) is not None and script.ids is None:
            raise InvalidField(guided.given_as, "is not possible with this engine")
        with self._wake:
            if self._closing:
                raise ShuttingDown("the model is being unloaded")
            self._push(time.monotonic() + script.delay, script)
            self._wake.notify()

    def _push(self, when: float, script: _Script) -> None:
        heapq.heappush(self._due, (when, next(self._order), script))

    def describe(self) -> dict[str, Any]:
        return {
            "backend": "scripted",
            "type": "causal_lm",
            "parameters": 0,
            "context_length": self.context_length,
            "device": "cpu",
            "dtype": "none",
            "max_num_seqs": self.context_length,
            "running": len(self._due),
            "waiting": 0,
            "gpus": [],
        }

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        for _, _, script in self._due:
            script.request.sink.fail(ShuttingDown("the model is being unloaded"))

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closing and not (self._due and self._due[0][0] <= time.monotonic()):
                    left = self._due[0][0] - time.monotonic() if self._due else None
                    self._wake.wait(left)
                if self._closing:
                    return
                when, _, script = heapq.heappop(self._due)
            if script.step():
                # A hanging script is looked at now and then, to see whether it was cancelled.
                pause = 0.01 if script.made == script.hang_at else script.interval
                with self._wake:
                    self._push(when + pause, script)
