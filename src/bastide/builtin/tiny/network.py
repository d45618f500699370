"""The network that is trained: Llama's architecture, as small as it gets.

Owns the forward pass. Rotary positions turn neighbouring pairs of numbers, as llama.cpp does for this architecture, so that no
weight has to be moved on export. Must never be imported by anything but `train.py`: it needs torch.
"""

# The checks run without torch installed too, where its classes have no type.
# mypy: allow-subclassing-any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bastide.builtin.tiny.recipe import Recipe


class Attention(nn.Module):
    """Causal attention with fewer key and value heads than query heads."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        narrow = recipe.key_value_heads * recipe.head_width
        self.q = nn.Linear(recipe.hidden, recipe.hidden, bias=False)
        self.k = nn.Linear(recipe.hidden, narrow, bias=False)
        self.v = nn.Linear(recipe.hidden, narrow, bias=False)
        self.output = nn.Linear(recipe.hidden, recipe.hidden, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """(batch, tokens, hidden) -> the same."""
        batch, tokens, hidden = x.shape
        width, groups = self.recipe.head_width, self.recipe.heads // self.recipe.key_value_heads
        query = _turned(self.q(x).view(batch, tokens, -1, width).transpose(1, 2), turn)
        key = _turned(self.k(x).view(batch, tokens, -1, width).transpose(1, 2), turn).repeat_interleave(groups, 1)
        value = self.v(x).view(batch, tokens, -1, width).transpose(1, 2).repeat_interleave(groups, 1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        done: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, tokens, hidden))
        return done


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs (0, 1), (2, 3), ... of the last axis by the angle of their position."""
    cosine, sine = (part[: x.shape[2]].to(x.dtype) for part in turn)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2)


class Block(nn.Module):
    """Attention, then a gated feed-forward, each on a normalised copy."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.attn_norm = nn.RMSNorm(recipe.hidden, eps=recipe.norm_epsilon)
        self.attn = Attention(recipe)
        self.ffn_norm = nn.RMSNorm(recipe.hidden, eps=recipe.norm_epsilon)
        self.ffn_gate = nn.Linear(recipe.hidden, recipe.feed_forward, bias=False)
        self.ffn_up = nn.Linear(recipe.hidden, recipe.feed_forward, bias=False)
        self.ffn_down = nn.Linear(recipe.feed_forward, recipe.hidden, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """(batch, tokens, hidden) -> the same."""
        x = x + self.attn(self.attn_norm(x), turn)
        y = self.ffn_norm(x)
        done: Tensor = x + self.ffn_down(functional.silu(self.ffn_gate(y)) * self.ffn_up(y))
        return done


class Network(nn.Module):
    """Tokens in, scores of the next token out; the embedding is used at both ends."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embedding = nn.Embedding(recipe.vocabulary, recipe.hidden)
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(recipe.layers))
        self.output_norm = nn.RMSNorm(recipe.hidden, eps=recipe.norm_epsilon)
        nn.init.normal_(self.embedding.weight, std=0.02)
        scale = (2 * recipe.layers) ** -0.5
        for block in self.blocks:
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=recipe.hidden**-0.5)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.endswith(("attn.output.weight", "ffn_down.weight")):
                    weight.mul_(scale)
        angles = torch.outer(
            torch.arange(recipe.context_tokens).float(),
            recipe.rope_base ** (-torch.arange(0, recipe.head_width, 2).float() / recipe.head_width),
        )
        self.cosine, self.sine = angles.cos(), angles.sin()

    def forward(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """(batch, tokens) and a mask of the same shape -> (wanted positions, vocabulary)."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, (self.cosine, self.sine))
        scores: Tensor = functional.linear(self.output_norm(x[wanted]), self.embedding.weight)
        return scores
