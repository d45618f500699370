"""Weights files of the built-in model: written after training, and derived from one another without training.

Owns the metadata and the quantisation of each tensor. The same input gives the same bytes; a file appears whole or not at all.
Must never need torch: numpy and gguf only.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import gguf
import numpy
from gguf.constants import GGMLQuantizationType, GGUFValueType, LlamaFileType
from gguf.quants import dequantize, quantize

from bastide.builtin.tiny.corpus import CHAT_TEMPLATE
from bastide.builtin.tiny.recipe import Recipe
from bastide.builtin.tiny.tokenizer import PRE_TOKENIZER, SPECIALS, Vocabulary

_FILE_TYPES: Final = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
_CONTROL, _NORMAL = 3, 1


def tensor_type(name: str, rank: int, quantisation: str) -> GGMLQuantizationType:
    """How one tensor is stored. Norms stay exact; in a q4_0 file the embedding stays at q8_0, for it is also the output.

    Raises `ValueError` for a quantisation that is none of f16, q8_0 and q4_0.
    """
    if quantisation not in _FILE_TYPES:
        raise ValueError(f"unknown quantisation {quantisation!r}: use one of {', '.join(_FILE_TYPES)}")
    if rank == 1:
        return GGMLQuantizationType.F32
    if quantisation == "q4_0" and name == "token_embd.weight":
        return GGMLQuantizationType.Q8_0
    return _FILE_TYPES[quantisation][0]


def describe(
    writer: Any, recipe: Recipe, words: Vocabulary, quantisation: str, *, vocabulary: int | None = None
) -> None:
    """Write the metadata: shape, tokenizer, chat template. `vocabulary` pads the tokens.

    No text is ever cut into the padding, but a model of random weights says it: so each has a text, that can be streamed.
    """
    writer.add_name(f"bastide-{recipe.name}")
    writer.add_license("apache-2.0")
    writer.add_file_type(int(_FILE_TYPES[quantisation][1]))
    writer.add_context_length(recipe.context_tokens)
    writer.add_embedding_length(recipe.hidden)
    writer.add_block_count(recipe.layers)
    writer.add_feed_forward_length(recipe.feed_forward)
    writer.add_head_count(recipe.heads)
    writer.add_head_count_kv(recipe.key_value_heads)
    writer.add_rope_dimension_count(recipe.head_width)
    writer.add_rope_freq_base(recipe.rope_base)
    writer.add_layer_norm_rms_eps(recipe.norm_epsilon)
    padding = [f"Ġw{number}" for number in range(len(words.tokens), vocabulary or 0)]
    tokens = [*words.tokens, *padding]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in SPECIALS else _NORMAL for token in tokens])
    writer.add_token_merges(list(words.merges))
    padding_token, start, end = (words.tokens.index(special) for special in SPECIALS)
    writer.add_bos_token_id(start)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(padding_token)
    # The chat template writes every special token itself: an engine must not put another one in front.
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write(
    target: Path, recipe: Recipe, words: Vocabulary, tensors: Iterable[tuple[str, Any]], quantisation: str
) -> None:
    """Write float32 `tensors` (name, array of rows x columns) as one weights file."""
    with Atomic(target) as unfinished:
        writer = gguf.GGUFWriter(unfinished, "llama")
        describe(writer, recipe, words, quantisation)
        for name, array in tensors:
            _add(writer, name, numpy.ascontiguousarray(array, dtype=numpy.float32), quantisation)
        _finish(writer)


def derive(quantisation: str, source: Path, target: Path) -> None:
    """Write `source` again in another quantisation (f16, q8_0 or q4_0).

    Raises `ValueError` for an unknown quantisation and `FileNotFoundError` when `source` is not there.
    """
    if quantisation not in _FILE_TYPES:
        raise ValueError(f"unknown quantisation {quantisation!r}: use one of {', '.join(_FILE_TYPES)}")
    if not source.is_file():
        raise FileNotFoundError(f"there is no weights file at {source}")
    reader = gguf.GGUFReader(source)
    with Atomic(target) as unfinished:
        writer = gguf.GGUFWriter(unfinished, "llama")
        for field in reader.fields.values():
            # The writer makes these itself, or they change.
            if field.name.startswith("GGUF.") or field.name in {"general.architecture", "general.file_type"}:
                continue
            inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
        writer.add_file_type(int(_FILE_TYPES[quantisation][1]))
        for tensor in reader.tensors:
            _add(writer, tensor.name, dequantize(tensor.data, tensor.tensor_type), quantisation)
        _finish(writer)


def _add(writer: Any, name: str, array: Any, quantisation: str) -> None:
    kind = tensor_type(name, array.ndim, quantisation)
    if kind == GGMLQuantizationType.F32:
        writer.add_tensor(name, array.astype(numpy.float32))
    elif kind == GGMLQuantizationType.F16:
        writer.add_tensor(name, array.astype(numpy.float16))
    else:
        writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Atomic:
    """A path to write to, next to the target, that takes the target's name once the block ends well."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")

    def __enter__(self) -> Path:
        """The path to write to."""
        return self._unfinished

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Sync and rename, or remove what was begun."""
        if kind is not None:
            self._unfinished.unlink(missing_ok=True)
            return
        with self._unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        self._unfinished.replace(self._target)
