"""Every number that decides what the built-in model becomes.

Owns the hyperparameters and their digest. A change here needs a rebuild of the committed weights.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Recipe:
    """Shape, data and training of the model. Lengths are in tokens, widths in numbers, rates per step."""

    name: str = "tiny"
    seed: int = 20_26
    # Data.
    conversations: int = 33_000
    tokenizer_conversations: int = 15_000
    # Shape: every row width is a multiple of 32, as Q8_0 and Q4_0 need.
    vocabulary: int = 2048
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    key_value_heads: int = 2
    feed_forward: int = 704
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-5
    context_tokens: int = 1024
    # Training.
    batch_tokens: int = 4096
    sequence_tokens_max: int = 512
    minutes_expected: int = 19
    learning_rate: float = 3e-3  # AdamW: embeddings and norms
    learning_rate_matrices: float = 5e-3  # Muon: the matrices of the blocks
    learning_rate_last_share: float = 0.01
    warmup_steps: int = 80
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    threads: int = 2

    @property
    def head_width(self) -> int:
        """Numbers per attention head."""
        return self.hidden // self.heads

    def digest(self) -> str:
        """SHA-256 of all fields in a fixed order."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


RECIPE: Final = Recipe()
