"""The process that tries grammars before the model's process compiles them.

A native compiler may end its process, for example when its stack is full. So each grammar is tried
in a process that is forked for it, with less stack than the real compilation will have, and with
limits on memory and time; the exit code of a process that was ended is a result, too. The process
that forks has the tokenizer and only waits for jobs. It ends with the process that started it.

A message is four bytes of length, big-endian, and then JSON. PyTorch is not imported here.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from backends.contract.errors import InvalidField
from backends.contract.structured import StructuredOutput
from backends.guidance.bounds import MAX_LITERAL, TooLarge
from backends.guidance.grammar import lark_grammar, short
from backends.guidance.limits import SLOW_MASK_SECONDS
from backends.guidance.vocabulary import Vocabulary

PR_SET_PDEATHSIG = 1
NICENESS = 5

WALKS, WALK_STEPS = 3, 48
"""The number of random texts that are begun, and the number of tokens of each."""
WALKS_SECONDS = 0.15
"""The CPU time for all of these texts."""


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Send a message. Raises OSError."""
    data = json.dumps(message).encode()
    channel.sendall(len(data).to_bytes(4, "big") + data)


def receive(channel: socket.socket) -> dict[str, Any]:
    """Return the next message. Raises EOFError if the channel has been closed, and OSError."""
    length = int.from_bytes(_read(channel, 4), "big")
    message: dict[str, Any] = json.loads(_read(channel, length))
    return message


def _read(channel: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = channel.recv(min(length - len(data), 1 << 20))
        if not part:
            raise EOFError("the other end has gone")
        data += part
    return bytes(data)


class Trial:
    """The trial of one grammar, which runs in a forked process."""

    def __init__(self, setup: dict[str, Any]) -> None:
        """Load the tokenizer. Raises ValueError.

        ``setup`` has these keys:

        - ``tokenizer_json``, ``vocab_size``, ``eos_token_ids``, ``context_length``: the model's.
        - ``options``: those of `lark_grammar`.
        - ``limits``: llguidance's, or None.
        - ``forces``: fixed text is tokenised as the tokenizer does it, and special tokens are
          renamed so that none of them is used for it.
        - ``compiles``: llguidance will compile the grammar; if false, only sizes are checked.
        - ``stack_bytes``, ``memory_bytes``: the limits of a trial.
        - ``path``: where the model's process finds its packages, because not all of these are on
          the path of a process without its environment.
        """
        sys.path.extend(entry for entry in setup.get("path", ()) if entry not in sys.path)
        self._forces, self._compiles = setup["forces"], setup["compiles"]
        self._options: dict[str, Any] = setup["options"]
        self._stack_bytes: int = setup["stack_bytes"]
        self._memory_bytes: int = setup["memory_bytes"]
        self._special: dict[str, int] = {}
        self._max_literal = MAX_LITERAL
        if self._compiles:
            self._load_tokenizer(setup)

    def _load_tokenizer(self, setup: dict[str, Any]) -> None:
        from llguidance import LLParserLimits, LLTokenizer

        vocabulary = Vocabulary.of(setup["tokenizer_json"])
        self._special = vocabulary.special
        self._max_literal = vocabulary.max_token_length * setup["context_length"]
        self._tokenizer = LLTokenizer(
            vocabulary.tokenizer_json if self._forces else setup["tokenizer_json"],
            n_vocab=setup["vocab_size"],
            eos_token=setup["eos_token_ids"] or None,
        )
        limits = setup["limits"]
        self._limits = LLParserLimits(**limits) if limits is not None else None

    def limit(self, job: dict[str, Any]) -> None:
        """Set the limits of this process; the kernel ends it where it exceeds them."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.nice(NICENESS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard_limit = resource.getrlimit(resource.RLIMIT_STACK)
        resource.setrlimit(resource.RLIMIT_STACK, (self._stack_bytes, hard_limit))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        memory = pages * resource.getpagesize() + self._memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        signal.setitimer(signal.ITIMER_PROF, job["cpu_seconds"])
        signal.setitimer(signal.ITIMER_REAL, job["wall_seconds"])

    def result(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return ``grammar``, which is "" where llguidance does not compile it, or ``invalid``, the
        problem of the field."""
        given_as = job["given_as"]
        try:
            guided = StructuredOutput.of(job["guided"], given_as)
            grammar = lark_grammar(guided, self._special, self._max_literal, self._options)
            if not self._compiles:
                return {"grammar": ""}
            if not self._forces:
                grammar = '%llguidance {"no_forcing": true}\n' + grammar
            self._walk(grammar, given_as)
        except InvalidField as error:
            if not self._compiles and not isinstance(error.__cause__, TooLarge):
                return {"grammar": ""}
            return {"invalid": error.problem}
        return {"grammar": grammar}

    def _walk(self, grammar: str, given_as: str) -> None:
        """Begin some random texts, as a model would. Raises `InvalidField`."""
        from llguidance import LLMatcher

        first = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        ends = time.process_time() + WALKS_SECONDS
        for seed in range(WALKS):
            chance = random.Random(seed)
            matcher = first if seed == WALKS - 1 else first.deep_copy()
            for _ in range(WALK_STEPS):
                began = time.process_time()
                mask = matcher.compute_bitmask()
                now = time.process_time()
                if matcher.is_error():
                    break
                if now - began > SLOW_MASK_SECONDS:
                    raise InvalidField(
                        given_as, "is too complex to enforce: finding a token takes too long"
                    )
                if now > ends or matcher.is_stopped():
                    break
                forced = matcher.compute_ff_tokens()
                matcher.consume_tokens(forced or [_any_of(mask, chance)])
            if matcher.is_error():
                error = short(matcher.get_error())
                raise InvalidField(given_as, f"cannot be kept to: {error}")


def _any_of(mask: bytes, chance: random.Random) -> int:
    """Return a random token that the mask allows."""
    start = chance.randrange(len(mask))
    at = next(i % len(mask) for i in range(start, start + len(mask)) if mask[i % len(mask)])
    return at * 8 + chance.choice([bit for bit in range(8) if mask[at] >> bit & 1])


def _run(trial: Trial, channel: socket.socket, job: dict[str, Any]) -> None:
    """Run a trial in a forked process, which ends here."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Hide what a compiler writes when it aborts.
        trial.limit(job)
        result = trial.result(job)
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        send(channel, result)
        code = 0
    finally:
        os._exit(code)


def serve(channels: list[socket.socket]) -> None:
    """Serve jobs, one at a time on each channel. Raises EOFError when a channel is closed."""
    try:
        trial = Trial(receive(channels[0]))
    except (ImportError, ValueError) as error:
        return send(channels[0], {"error": short(error)})
    send(channels[0], {})
    waiting: dict[int, socket.socket] = {channel.fileno(): channel for channel in channels}
    running: dict[int, tuple[int, socket.socket]] = {}  # Process and channel, by descriptor.
    while True:
        ready, _, _ = select.select([*waiting, *running], [], [])
        for descriptor in ready:
            if descriptor in waiting:
                channel = waiting.pop(descriptor)
                job = receive(channel)
                process = os.fork()
                if not process:
                    _run(trial, channel, job)
                running[os.pidfd_open(process)] = process, channel
            else:
                process, channel = running.pop(descriptor)
                os.close(descriptor)
                _, status, used = os.wait4(process, 0)
                if code := os.waitstatus_to_exitcode(status):
                    seconds = used.ru_utime + used.ru_stime
                    send(channel, {"exit_code": code, "cpu_seconds": seconds})
                waiting[channel.fileno()] = channel


def main() -> None:
    """Serve the channels whose descriptors the arguments name, after the parent's process id."""
    parent, *descriptors = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends this process.
    try:
        serve([socket.socket(fileno=descriptor) for descriptor in descriptors])
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    main()
