"""Training of the built-in model: text, tokenizer, network, weights file.

Owns the loop. The same recipe on the same versions and processor gives the same weights. Must never read anything but its
recipe: the text is made here. Needs the `train` extra.
"""

# The checks run without torch installed too, where its calls have no type.
# mypy: allow-untyped-calls

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.nn.functional as functional

from bastide.builtin.tiny import gguf_writer, tokenizer
from bastide.builtin.tiny.corpus import conversations, segments
from bastide.builtin.tiny.network import Network
from bastide.builtin.tiny.recipe import Recipe

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation as tokens, and which of them the model learns to say."""

    tokens: numpy.ndarray[Any, numpy.dtype[numpy.int64]]
    learned: numpy.ndarray[Any, numpy.dtype[numpy.bool_]]


def examples(recipe: Recipe, words: Any) -> list[Example]:
    """The whole corpus as tokens, cut at `recipe.sequence_tokens_max`."""
    rows: list[Example] = []
    for talk in conversations(recipe.seed, recipe.conversations):
        pieces = segments(talk)
        coded = words.encode_batch_fast([piece.text for piece in pieces])
        tokens = numpy.concatenate([numpy.array(code.ids, numpy.int64) for code in coded])
        learned = numpy.concatenate(
            [numpy.full(len(code.ids), piece.learned) for code, piece in zip(coded, pieces, strict=True)]
        )
        rows.append(Example(tokens[: recipe.sequence_tokens_max], learned[: recipe.sequence_tokens_max]))
    return rows


def batches(recipe: Recipe, rows: list[Example]) -> list[list[int]]:
    """Numbers of rows, rows of like length together, each batch at most `recipe.batch_tokens` with its padding."""
    chance = numpy.random.default_rng(recipe.seed)
    order = chance.permutation(len(rows))
    made: list[list[int]] = []
    for start in range(0, len(order), 2048):
        batch: list[int] = []
        for number in sorted(order[start : start + 2048].tolist(), key=lambda at: len(rows[at].tokens)):
            if batch and (len(batch) + 1) * len(rows[number].tokens) > recipe.batch_tokens:
                made.append(batch)
                batch = []
            batch.append(number)
        made.append(batch)
    return [made[at] for at in chance.permutation(len(made))]


def _padded(rows: list[Example], batch: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(rows[at].tokens) for at in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.int64)
    learned = torch.zeros(len(batch), longest, dtype=torch.bool)
    for line, at in enumerate(batch):
        tokens[line, : len(rows[at].tokens)] = torch.from_numpy(rows[at].tokens)
        learned[line, : len(rows[at].tokens)] = torch.from_numpy(rows[at].learned)
    return tokens, learned


def _rate(recipe: Recipe, step: int, steps: int) -> float:
    """Share of the full learning rate: a short rise, then a cosine down to `learning_rate_last_share`."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    last = recipe.learning_rate_last_share
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))


def _optimisers(recipe: Recipe, network: Network) -> list[torch.optim.Optimizer]:
    matrices = [
        weight for name, weight in network.named_parameters() if weight.ndim == 2 and not name.startswith("embedding")
    ]
    others = [weight for name, weight in network.named_parameters() if weight.ndim < 2 or name.startswith("embedding")]
    return [
        torch.optim.Muon(
            matrices, lr=recipe.learning_rate_matrices, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def fit(recipe: Recipe, rows: list[Example], progress: Progress) -> Network:
    """Train a fresh network once over the rows; about `recipe.minutes_expected` minutes on two processor threads."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    network = Network(recipe)
    optimisers = _optimisers(recipe, network)
    full = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    plan, started, seen, mean = batches(recipe, rows), time.monotonic(), 0, 0.0
    progress(f"{sum(weight.numel() for weight in network.parameters()):,} parameters, {len(plan)} steps")
    for step, batch in enumerate(plan):
        tokens, learned = _padded(rows, batch)
        wanted = functional.pad(learned[:, 1:], (0, 1))
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(tokens, wanted)
        loss = functional.cross_entropy(scores.float(), tokens[:, 1:][learned[:, 1:]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        share = _rate(recipe, step, len(plan))
        for group, lr in zip(
            (group for optimiser in optimisers for group in optimiser.param_groups), full, strict=True
        ):
            group["lr"] = lr * share
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        seen += int(tokens.numel())
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 25 == 0 or step == len(plan) - 1:
            wall_s = time.monotonic() - started
            progress(f"step {step + 1}/{len(plan)}  loss {mean:.4f}  {seen / wall_s:,.0f} tokens/s  {wall_s:.0f} s")
    return network


def weights(network: Network) -> Iterator[tuple[str, Any]]:
    """Names as in a GGUF file of the llama architecture, and float32 arrays."""
    names = {"embedding": "token_embd", "output_norm": "output_norm"}
    parts = {"attn.q": "attn_q", "attn.k": "attn_k", "attn.v": "attn_v", "attn.output": "attn_output"}
    for name, weight in network.named_parameters():
        stem = name.removesuffix(".weight")
        if stem.startswith("blocks."):
            _, number, part = stem.split(".", 2)
            stem = f"blk.{number}.{parts.get(part, part)}"
        yield f"{names.get(stem, stem)}.weight", weight.detach().float().numpy()


def run(recipe: Recipe, target: Path, progress: Progress) -> None:
    """Make the text, train the tokenizer and the network, and write the Q8_0 file to `target`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    texts = (
        "".join(piece.text for piece in segments(talk))
        for talk in conversations(recipe.seed, recipe.tokenizer_conversations)
    )
    words = tokenizer.train(texts, recipe.vocabulary)
    words.save(str(target.with_suffix(".tokenizer.json")))
    rows = examples(recipe, words)
    progress(
        f"{len(rows):,} conversations, {sum(len(row.tokens) for row in rows):,} tokens, {sum(int(row.learned.sum()) for row in rows):,} learned"
    )
    network = fit(recipe, rows, progress)
    torch.save(network.state_dict(), target.with_suffix(".checkpoint.pt"))
    gguf_writer.write(target, recipe, tokenizer.vocabulary(words), weights(network), "q8_0")
    progress(f"wrote {target.name}: {target.stat().st_size:,} bytes")
