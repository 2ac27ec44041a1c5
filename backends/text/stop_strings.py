"""Stop strings in a text that arrives in pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache


class _Automaton:
    """The automaton of Aho and Corasick (https://doi.org/10.1145/360825.360855), which searches for
    all strings at once, in time linear in the text.

    A state is the longest suffix of the text that is a prefix of one of the strings. State 0 is the
    empty one.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]  # The state of the longest proper suffix.
        self.length = [0]
        self.match = [0]  # The length of the longest string that ends with the state.
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
        """Link each state to its longest proper suffix, breadth first, because a state needs the
        links of shorter ones."""
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, following in self._next[state].items():
                self._shorter[following] = self.step(self._shorter[state], character)
                waiting.append(following)
            self.match[state] = self.match[state] or self.match[self._shorter[state]]

    def begun(self, state: int) -> int:
        """Return the longest suffix of a state that is a proper prefix of a string."""
        while state and not self._next[state]:
            state = self._shorter[state]
        return state

    def step(self, state: int, character: str) -> int:
        """Return the state after one more character."""
        while state and character not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(character, 0)


_automaton = lru_cache(maxsize=16)(_Automaton)
"""Automata are cached, because several choices for one prompt have the same strings."""


class StopMatcher:
    """A matcher that cuts text exactly before the first stop string, however the text is split.

    Text that may be the beginning of a stop string is withheld. Of several matches, the one that
    ends first counts, and of those that end together, the longest.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """Create a matcher. ``include``: cut after the stop string, not before it."""
        self._automaton = _automaton(tuple(stops))
        self._include = include
        self._state = 0
        self._withheld = ""

    def push(self, text: str, *, stops: bool = True) -> tuple[str, bool]:
        """Return the text that may be sent now, and whether a stop string was reached.

        If ``stops`` is false, stop strings that end in this text are ignored.
        """
        automaton, state = self._automaton, self._state
        if not state and automaton.first.isdisjoint(text):
            return text, False
        pending = self._withheld + text
        for end, character in enumerate(text, len(self._withheld) + 1):
            state = automaton.step(state, character)
            if stops and (length := automaton.match[state]):
                self._withheld, self._state = "", 0
                return pending[: end if self._include else end - length], True
        self._state = state = automaton.begun(state)
        cut = len(pending) - automaton.length[state]
        self._withheld = pending[cut:]
        return pending[:cut], False

    def flush(self) -> str:
        """Return the withheld text, when no more text comes."""
        withheld, self._withheld, self._state = self._withheld, "", 0
        return withheld
