"""Weights files of a known shape and no sense, so that loading, memory and sleep can be measured without a download.

Owns the shapes. Needs numpy and gguf (`pip install 'bastide[quantise]'`). Never holds more than a few megabytes of a file at once.

    python benchmarks/shapes.py --shape 135m|1b --quantisation f16|q8_0|q4_0 --out FILE [--seed N]
"""

# mypy: ignore-missing-imports

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gguf
import numpy
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from bastide.builtin.tiny import weights_path
from bastide.builtin.tiny.gguf_writer import Atomic, describe, tensor_type
from bastide.builtin.tiny.recipe import Recipe
from bastide.builtin.tiny.tokenizer import Vocabulary

# The widths are those of well-known models; the embedding is used at both ends, as theirs is.
SHAPES: Final = {
    "135m": Recipe(
        name="shape-135m",
        vocabulary=49_152,
        hidden=576,
        layers=30,
        heads=9,
        key_value_heads=3,
        feed_forward=1536,
        context_tokens=8192,
    ),
    "1b": Recipe(
        name="shape-1b",
        vocabulary=128_256,
        hidden=2048,
        layers=16,
        heads=32,
        key_value_heads=8,
        feed_forward=8192,
        rope_base=500_000.0,
        context_tokens=8192,
    ),
}
_ROWS_AT_ONCE: Final = 1024
# How far random weights stray from zero: small, so that thirty layers of them stay finite.
_SPREAD: Final = 0.02


def tiny_vocabulary() -> Vocabulary:
    """Tokens and merges of the built-in model."""
    fields = gguf.GGUFReader(weights_path()).fields
    return Vocabulary(
        tuple(fields["tokenizer.ggml.tokens"].contents()), tuple(fields["tokenizer.ggml.merges"].contents())
    )


def tensors(shape: Recipe) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and (rows, columns) of every tensor of a llama-architecture file with tied embeddings."""
    narrow = shape.key_value_heads * shape.head_width
    yield "token_embd.weight", (shape.vocabulary, shape.hidden)
    yield "output_norm.weight", (shape.hidden,)
    for layer in range(shape.layers):
        parts = {
            "attn_norm": (shape.hidden,),
            "attn_q": (shape.hidden, shape.hidden),
            "attn_k": (narrow, shape.hidden),
            "attn_v": (narrow, shape.hidden),
            "attn_output": (shape.hidden, shape.hidden),
            "ffn_norm": (shape.hidden,),
            "ffn_gate": (shape.feed_forward, shape.hidden),
            "ffn_up": (shape.feed_forward, shape.hidden),
            "ffn_down": (shape.hidden, shape.feed_forward),
        }
        for name, size in parts.items():
            yield f"blk.{layer}.{name}.weight", size


def stored_bytes(size: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor of this size, stored as `kind`."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    count = 1
    for length in size:
        count *= length
    return count // block * block_bytes


def random_rows(chance: numpy.random.Generator, rows: int, columns: int, kind: GGMLQuantizationType) -> bytes:
    """Rows of random weights, already in the stored form: quantising gigabytes in Python would take minutes."""
    if kind == GGMLQuantizationType.F16:
        return (chance.standard_normal((rows, columns), numpy.float32) * _SPREAD).astype(numpy.float16).tobytes()
    _, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = chance.integers(0, 256, (rows * columns // 32, block_bytes), numpy.uint8)
    # A block begins with its scale, a float16; the bytes after it are uniform over the numbers they can hold.
    half_range = 128 if kind == GGMLQuantizationType.Q8_0 else 8
    scale = numpy.array([_SPREAD * 3**0.5 / half_range], numpy.float16)
    blocks[:, :2] = scale.view(numpy.uint8)
    return blocks.tobytes()


def write(shape: Recipe, quantisation: str, target: Path, seed: int) -> None:
    """Write the file; another seed gives other weights, the same seed the same bytes."""
    chance = numpy.random.default_rng(seed)
    with Atomic(target) as unfinished:
        writer: Any = gguf.GGUFWriter(unfinished, "llama")
        describe(writer, shape, tiny_vocabulary(), quantisation, vocabulary=shape.vocabulary)
        plan = [(name, size, tensor_type(name, len(size), quantisation)) for name, size in tensors(shape)]
        for name, size, kind in plan:
            writer.add_tensor_info(name, size, numpy.dtype(numpy.float32), stored_bytes(size, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        # The writer wants whole tensors; an embedding of hundreds of megabytes goes out in slices instead.
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        for _, size, kind in plan:
            if len(size) == 1:
                file.write(numpy.ones(size, numpy.float32).tobytes())
            else:
                for first in range(0, size[0], _ROWS_AT_ONCE):
                    file.write(random_rows(chance, min(_ROWS_AT_ONCE, size[0] - first), size[1], kind))
            writer.write_padding(file, stored_bytes(size, kind))
        writer.close()


def main() -> int:
    """Write one file and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--quantisation", choices=("f16", "q8_0", "q4_0"), default="q8_0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(SHAPES[given.shape], given.quantisation, given.out, given.seed)
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
