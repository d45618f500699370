"""The tokenizer of the built-in model: byte-level BPE, split as GPT-2 does, which engines name `gpt-2`.

Owns its training and its form in the weights file. Must never change how text is split without changing `PRE_TOKENIZER`, or
the engine would see other tokens than the training did. Needs the `train` extra.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from bastide.builtin.tiny.corpus import END, PADDING, START

SPECIALS: Final = (PADDING, START, END)
PRE_TOKENIZER: Final = "gpt-2"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a weights file needs to know: tokens in order of their number, and merges in order of their rank."""

    tokens: tuple[str, ...]
    merges: tuple[str, ...]


def train(texts: Iterable[str], size: int) -> Any:
    """A `tokenizers.Tokenizer` of `size` tokens, the specials first; the same texts give the same one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != size:
        raise RuntimeError(
            f"the text gives {tokenizer.get_vocab_size()} tokens and not {size}: train on more of it, or ask for fewer"
        )
    return tokenizer


def vocabulary(tokenizer: Any) -> Vocabulary:
    """Tokens and merges of a trained tokenizer."""
    import json

    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    return Vocabulary(tuple(tokens), tuple(merges))
