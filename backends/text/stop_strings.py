"""Stop strings, found in a text that comes in pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache


class _Automaton:
    """Looks for all strings at once, in time linear in the text: the automaton of Aho and Corasick
    (https://doi.org/10.1145/360825.360855).

    A state is the longest end of the text that begins one of the strings; 0 is the empty one.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]  # the state of the longest end that is not all of it
        self.length = [0]
        self.match = [0]  # the length of the longest string that ends with the state
        for string in strings:
            self._add(string)
        self._link()
        self.first = frozenset(self._next[0])
        """The characters that strings begin with."""

    def _add(self, string: str) -> None:
        state = 0
        for character in string:
            following = self._next[state].get(character)
            if following is None:
                following = self._next[state][character] = len(self._next)
                self._next.append({})
                self._shorter.append(0)
                self.length.append(self.length[state] + 1)
                self.match.append(0)
            state = following
        self.match[state] = len(string)

    def _link(self) -> None:
        """Breadth first: shorter states are ready before those that need them."""
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, following in self._next[state].items():
                self._shorter[following] = self.step(self._shorter[state], character)
                waiting.append(following)
            self.match[state] = self.match[state] or self.match[self._shorter[state]]

    def begun(self, state: int) -> int:
        """The longest end of its text that begins a string and is not all of it."""
        while state and not self._next[state]:
            state = self._shorter[state]
        return state

    def step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(character, 0)


_automaton = lru_cache(maxsize=16)(_Automaton)
"""Several answers to one prompt have the same strings."""


class StopMatcher:
    """Cuts text exactly before the first stop string, however the text is split into pieces.

    Text that may be the beginning of a stop string is held back. Of several matches, the one
    that ends first counts, and of those the longest.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """``include``: the cut is behind the stop string."""
        self._automaton = _automaton(tuple(stops))
        self._include = include
        self._state = 0
        self._held = ""

    def push(self, text: str, *, stops: bool = True) -> tuple[str, bool]:
        """The text that may go out now, and whether a stop string was reached. With ``stops``
        false, strings that end in this text do not count."""
        automaton, state = self._automaton, self._state
        if not state and automaton.first.isdisjoint(text):
            return text, False
        held = self._held + text
        for end, character in enumerate(text, len(self._held) + 1):
            state = automaton.step(state, character)
            if stops and (length := automaton.match[state]):
                self._held, self._state = "", 0
                return held[: end if self._include else end - length], True
        self._state = state = automaton.begun(state)
        cut = len(held) - automaton.length[state]
        self._held = held[cut:]
        return held[:cut], False

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held, self._state = self._held, "", 0
        return held
