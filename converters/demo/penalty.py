"""The repetition penalty of generation, applied to all positions of a sequence at once."""

from torch import Tensor


def apply_penalty(logits: Tensor, input_ids: Tensor, penalty: float) -> Tensor:
    """Return the logits after the penalty for tokens that the sequence already has.

    The rule is that of transformers' RepetitionPenaltyLogitsProcessor, prompt included: positive
    logits of seen tokens are divided by the penalty, negative ones multiplied by it
    (https://arxiv.org/abs/1909.05858, section 4.1).

    Args:
        logits: float, shape (batch, length, vocabulary).
        input_ids: int64, shape (batch, length).
        penalty: at least 1.0, which changes nothing.
    """
    if penalty == 1.0:
        return logits
    seen = logits.new_zeros(logits.shape).scatter_(2, input_ids.unsqueeze(-1), 1.0)
    seen = seen.cumsum(dim=1) > 0
    return logits.where(~seen, (logits / penalty).where(logits > 0, logits * penalty))
