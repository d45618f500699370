"""Makes a tiny model with random weights, so that a real engine can be tested without any download.

What it says is noise; how many tokens it says, and how the engine counts and streams them, is real.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy

_WIDTH, _LAYERS, _HEADS, _INNER = 64, 2, 4, 128
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _byte_letters() -> list[str]:
    # GPT-2's map of bytes to printable letters: printable bytes stand for themselves, the rest move up.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    moved = 256
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(moved)
            moved += 1
    return [letters[byte] for byte in range(256)]


def write(path: Path, context_tokens: int = 2048, seed: int = 7) -> Path:
    """Write a GGUF file of about half a megabyte at `path`."""
    draw = numpy.random.default_rng(seed)
    tokens = [*_byte_letters(), "<|im_start|>", "<|im_end|>"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("random")
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_TEMPLATE)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, (draw.standard_normal(shape) * 0.05).astype(numpy.float32))

    def ones(name: str) -> None:
        writer.add_tensor(name, numpy.ones(_WIDTH, dtype=numpy.float32))

    embedding = (draw.standard_normal((len(tokens), _WIDTH)) * 0.05).astype(numpy.float32)
    embedding[[*range(128, 256)]] *= 0.01  # keep what it says mostly printable
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", embedding * 30)
    ones("output_norm.weight")
    for layer in range(_LAYERS):
        ones(f"blk.{layer}.attn_norm.weight")
        ones(f"blk.{layer}.ffn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{layer}.{part}.weight", _WIDTH, _WIDTH)
        tensor(f"blk.{layer}.ffn_gate.weight", _INNER, _WIDTH)
        tensor(f"blk.{layer}.ffn_up.weight", _INNER, _WIDTH)
        tensor(f"blk.{layer}.ffn_down.weight", _WIDTH, _INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
