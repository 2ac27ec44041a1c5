"""Token counts of a request."""

from __future__ import annotations

from collections.abc import Sequence

from control_plane.inference.responses import Delta


class Usage:
    """A counter of tokens by choice. A prompt that has several answers counts once.

    ``counts_answers``: False where what is generated is not shown.
    """

    def __init__(self, choices: int, answers: int, *, counts_answers: bool = True) -> None:
        self._prompts = [0] * (choices // answers)
        self._answers = answers
        self._completion = 0
        self._counts_answers = counts_answers

    def add(self, choice: int, prompt_tokens: int, completion_tokens: int) -> None:
        self._prompts[choice // self._answers] = prompt_tokens
        if self._counts_answers:
            self._completion += completion_tokens

    def add_deltas(self, choice: int, deltas: Sequence[Delta]) -> None:
        tokens = 0
        for delta in deltas:
            tokens += delta.tokens
        self.add(choice, deltas[-1].prompt_tokens, tokens)

    def body(self) -> dict[str, int]:
        prompt = sum(self._prompts)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + self._completion,
            "completion_tokens": self._completion,
        }
