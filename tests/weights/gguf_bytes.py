"""GGUF files as bytes, small and whole, for tests to damage."""

from __future__ import annotations

import struct
from typing import Any

F32 = 0


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(given: Any) -> bytes:
    """A value with its type before it: str, bool, int, float, or a list of str or int."""
    if isinstance(given, str):
        return struct.pack("<I", 8) + text(given)
    if isinstance(given, bool):
        return struct.pack("<I?", 7, given)
    if isinstance(given, int):
        return struct.pack("<Iq", 11, given)
    if isinstance(given, float):
        return struct.pack("<Id", 12, given)
    if given and isinstance(given[0], str):
        return struct.pack("<IIQ", 9, 8, len(given)) + b"".join(text(item) for item in given)
    return struct.pack("<IIQ", 9, 11, len(given)) + struct.pack(f"<{len(given)}q", *given)


def gguf(*, elements: int = 64, salt: str = "", more: dict[str, Any] | None = None) -> bytes:
    """A whole file with one tensor. `salt` makes it another file of the same length where it is as long."""
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": f"test{salt}",
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.context_length": 512,
        "tokenizer.ggml.tokens": ["a", "b", "c"],
        "tokenizer.ggml.scores": [1, 2, 3],
        "tokenizer.chat_template": "{{ messages }}",
    }
    keys |= more or {}
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys))
    head += b"".join(text(key) + value(given) for key, given in keys.items())
    head += text("token_embd.weight") + struct.pack("<IQIQ", 1, elements, F32, 0)
    head += bytes(-len(head) % 32)
    return head + bytes(4 * elements)
