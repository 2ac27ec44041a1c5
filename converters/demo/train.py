"""Training of the demo model, which is written as a Hugging Face model folder.

Run from the root of the repository::

    python -m converters.demo.train --output model_repository/demo/1/weights

The result depends on the seed, the number of steps and the number of threads, and on nothing else
that changes between two runs on one machine.
"""

import argparse
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    get_cosine_schedule_with_warmup,
)

from converters.common.corpus.topics import load_corpus
from converters.demo.dataset import (
    IGNORED,
    Encoder,
    ExampleSource,
    batches,
    tokenizer_texts,
)
from converters.demo.evaluate import evaluate
from converters.demo.penalty import apply_penalty
from converters.demo.tokenizer import CONTEXT_LENGTH, END_OF_TEXT, TURN_END, train_tokenizer

logger = logging.getLogger(__name__)

DEFAULT_OUTPUT = Path(__file__).parents[2] / "model_repository" / "demo" / "1" / "weights"

LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
WARMUP_STEPS = 60
MAX_GRADIENT_NORM = 1.0
TOKENS_PER_BATCH = 1024
LOG_EVERY = 100

# Repeated words must win against a repetition penalty too, so half of the batches train with one.
PENALTIES = (1.0, 1.0, 1.1, 1.2)


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """The options of the command line."""

    output: Path
    steps: int
    seed: int
    threads: int


def parse_options(arguments: Sequence[str] | None = None) -> TrainingOptions:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Train the demo model of Triad.")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="model folder to write")
    parser.add_argument("--steps", type=int, default=1800, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return TrainingOptions(**vars(parser.parse_args(arguments)))


def main() -> None:
    """Train a model, save it, load what was saved, and evaluate it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    topics = load_corpus()
    tokenizer = train_tokenizer(tokenizer_texts(topics), options.output)
    model = build_model(tokenizer)
    logger.info("%d topics, %d parameters", len(topics), model.num_parameters())
    rng = random.Random(options.seed)
    source = ExampleSource(topics, Encoder(tokenizer), rng)
    train(model, source, options.steps, rng)
    save(model, options.output)
    evaluate(options.output, topics)


def build_model(tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """Return an untrained Qwen2 model of about 2.8 million parameters."""
    end_ids = tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        # Wider than the default 0.02: a model this narrow leaves its initial plateau much sooner.
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=end_ids[1],
        eos_token_id=end_ids[0],
        pad_token_id=end_ids[1],
        use_cache=True,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=end_ids[1], eos_token_id=end_ids, pad_token_id=end_ids[1]
    )
    return model


def train(model: Qwen2ForCausalLM, source: ExampleSource, steps: int, rng: random.Random) -> None:
    """Run AdamW with a cosine schedule for a number of steps."""
    model.train()
    optimizer = AdamW(
        model.parameters(),
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, min(WARMUP_STEPS, steps), steps)
    started = time.monotonic()
    losses: list[float] = []
    pairs = batches(source, TOKENS_PER_BATCH, rng)
    for step, (input_ids, labels) in zip(range(1, steps + 1), pairs, strict=False):
        losses.append(_step(model, optimizer, schedule, input_ids, labels, rng.choice(PENALTIES)))
        if step % LOG_EVERY == 0 or step == steps:
            recent = losses[-LOG_EVERY:]
            seconds = time.monotonic() - started
            logger.info("step %d, loss %.4f, %.0f s", step, sum(recent) / len(recent), seconds)


def _step(
    model: Qwen2ForCausalLM,
    optimizer: AdamW,
    schedule: LRScheduler,
    input_ids: Tensor,
    labels: Tensor,
    penalty: float,
) -> float:
    logits = apply_penalty(model(input_ids=input_ids, use_cache=False).logits, input_ids, penalty)
    loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    schedule.step()
    return loss.item()


def save(model: Qwen2ForCausalLM, folder: Path) -> None:
    """Write the weights in bfloat16 beside the tokenizer."""
    model.to(torch.bfloat16).save_pretrained(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    logger.info("wrote %s, %d bytes", folder.name, size)


if __name__ == "__main__":
    main()
