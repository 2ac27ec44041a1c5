"""The slots of the KV cache: which of them are free, and which prefixes can be reused.

A slot keeps its keys and values when its sequence has ended. A request whose prompt begins with the
tokens of some slot (a system prompt, the chat so far) starts behind them, in that slot or in
another one with a copy of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.batching.runner import Runner
from backends.batching.sampling import Sampler
from backends.batching.sequence import RunningSequence, common_prefix
from backends.engine import EngineRequest

MIN_SHARED_PREFIX = 16
"""Tokens: a shorter common prefix is computed again rather than copied."""


class SlotTable:
    """The assignment of a runner's slots to sequences. One thread owns it."""

    def __init__(self, runner: Runner) -> None:
        self.reused_tokens = 0  # tokens of all requests whose keys and values were reused
        self.free = list(range(runner.slots))  # least recently used first
        self._runner = runner
        self._ids: list[list[int]] = [[] for _ in range(runner.slots)]  # cached in each free slot
        self._salts: list[str | None] = [None] * runner.slots  # `cache_salt` of each slot's content

    def assign(
        self, request: EngineRequest, sampler: Sampler, running: Sequence[RunningSequence]
    ) -> RunningSequence:
        """Give a free slot to a request, with the longest prefix that is cached in any slot.

        Raises ValueError if the prompt is empty.
        """
        ids = [*request.prompt_ids, *request.output_ids]
        if not ids:
            raise ValueError("the prompt is empty")
        slot, computed = self.free[0], 0
        if self._can_reuse(request):
            source, computed = self._longest_prefix(request, ids, running)
            if source in self.free and 2 * computed >= len(self._ids[source]):
                slot = source  # at least half of its content stays of use
            elif computed and source != slot:
                self._runner.copy(source, slot, computed)
        self.free.remove(slot)
        self._ids[slot] = []
        self._salts[slot] = request.sampling.cache_salt
        self.reused_tokens += computed
        return RunningSequence(request, sampler, slot, computed)

    def release(self, sequence: RunningSequence) -> None:
        """Make the slot of a sequence that has ended free. Its content stays."""
        self._runner.release(sequence.slot)
        self._ids[sequence.slot] = sequence.ids[: sequence.computed]
        self.free.append(sequence.slot)

    def should_wait(self, request: EngineRequest, running: Sequence[RunningSequence]) -> bool:
        """Return whether a running prompt will soon provide a longer prefix than any slot now.

        To compute the request's prompt now would compute their common prefix twice.
        """
        if not self._can_reuse(request):
            return False
        salt = request.sampling.cache_salt
        prompts = [s for s in running if s.left > 1 and self._salts[s.slot] == salt]
        if not prompts:
            return False
        ids = [*request.prompt_ids, *request.output_ids]
        soon = max(common_prefix(ids[:-1], s.ids) for s in prompts)
        now = self._longest_prefix(request, ids, running)[1]
        return soon >= MIN_SHARED_PREFIX and soon - now >= MIN_SHARED_PREFIX

    def _can_reuse(self, request: EngineRequest) -> bool:
        """Return whether a cached prefix will do: log probabilities of a prompt need its logits."""
        return self._runner.shares_prefixes and request.sampling.prompt_logprobs is None

    def _longest_prefix(
        self, request: EngineRequest, ids: list[int], running: Sequence[RunningSequence]
    ) -> tuple[int, int]:
        """Return the slot with the longest cached prefix of ``ids``, and the prefix's length.

        The length is 0 if none has `MIN_SHARED_PREFIX` tokens. The last token is never part of it:
        its logits are needed.
        """
        best, length, ids = self.free[0], MIN_SHARED_PREFIX - 1, ids[:-1]
        contents = [(slot, self._ids[slot]) for slot in self.free]
        contents += [(s.slot, s.ids[: s.computed]) for s in running]
        for slot, cached in contents:
            if self._salts[slot] != request.sampling.cache_salt:
                continue
            if (common := common_prefix(ids, cached)) > length:
                best, length = slot, common
        return best, length if length >= MIN_SHARED_PREFIX else 0
