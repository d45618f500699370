"""What a GGUF file says of itself, read without loading it: is it whole, which architecture, how large its caches.

Source: the GGUF specification (ggml, docs/gguf.md). Standard library only; never trusts a length it did not check.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"GGUF"
KEYS_MAX = 100_000
TENSORS_MAX = 1_000_000
STRING_BYTES_MAX = 16 * 2**20
# In all: what a header may make us read and walk through, so that a lie costs a moment and no memory.
TEXT_BYTES_MAX = 64 * 2**20
STEPS_MAX = 1_500_000  # real vocabularies with their merges: under 800,000
NUMBER_MAX = 2**31
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Type -> (elements a block, bytes a block). Unknown types can't be sized, so only a lower bound is checked for them.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


class NotGguf(ValueError):
    """The file is no GGUF, or not all of one. The message says which."""


@dataclass(frozen=True, slots=True)
class Header:
    """`whole_bytes`: how long the file must be for every tensor it names (a lower bound where a type is unknown)."""

    architecture: str
    name: str
    layers: int
    embedding_length: int
    heads: int
    kv_heads: int
    head_length: int
    context_tokens: int
    has_chat_template: bool
    pools: bool  # it says how to make one vector of many
    whole_bytes: int


def read_header(path: str) -> Header:
    """Raises NotGguf where it is none or is truncated, OSError where it can't be read."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            header = _Reader(file, size).header()
        except NotGguf as error:
            raise NotGguf(f"{path}: {error}") from None
        except (struct.error, ValueError, OverflowError) as error:
            raise NotGguf(f"{path} is a GGUF file that breaks off or is damaged in its header ({error})") from None
        if header.whole_bytes > size:
            raise NotGguf(
                f"{path} is truncated: it holds {size:,} bytes, its header names tensors up to {header.whole_bytes:,}"
            )
        return header


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._text_bytes = self._steps = 0

    def step(self) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise NotGguf("the GGUF header is longer than any real one")

    def skip(self, count: int) -> None:
        """Go on by that many bytes, which must be there."""
        if count > self._size - self._file.tell():
            raise struct.error("the file ends inside a value")
        self._file.seek(count, os.SEEK_CUR)

    def number(self, code: str) -> int:
        size = struct.calcsize(code)
        return int(struct.unpack("<" + code, self._file.read(size))[0])

    def text(self) -> str:
        length = self.number("Q")
        self._text_bytes += length
        if length > STRING_BYTES_MAX or self._text_bytes > TEXT_BYTES_MAX:
            raise NotGguf("the GGUF header holds more text than any real one")
        data = self._file.read(length)
        if len(data) < length:
            raise struct.error("the file ends inside a text")
        return data.decode(errors="replace")

    def value(self, kind: int) -> int | float | str | None:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            element, count = self.number("I"), self.number("Q")
            if element in _SCALARS:
                self.skip(count * struct.calcsize(_SCALARS[element]))
            elif element == _STRING:
                for _ in range(count):
                    self.step()
                    if length := self.number("Q"):
                        self.skip(length)
            else:
                raise NotGguf("the GGUF header nests arrays, which no real one does")
            return None
        if kind not in _SCALARS:
            raise NotGguf(f"the GGUF header holds a value of unknown type {kind}")
        code = _SCALARS[kind]
        unpacked = struct.unpack("<" + code, self._file.read(struct.calcsize(code)))[0]
        return float(unpacked) if code in "fd" else int(unpacked)

    def header(self) -> Header:
        if self._file.read(4) != MAGIC:
            raise NotGguf("the file is not GGUF: it does not begin with its mark")
        version = self.number("I")
        if version not in (2, 3):
            raise NotGguf(f"the file is GGUF version {version}; versions 2 and 3 are known")
        tensors, keys = self.number("Q"), self.number("Q")
        if tensors > TENSORS_MAX or keys > KEYS_MAX:
            raise NotGguf("the GGUF header counts more than any real one")
        values: dict[str, int | float | str] = {}
        for _ in range(keys):
            key = self.text()
            value = self.value(self.number("I"))
            if value is not None:
                values[key] = value
        ends: list[int] = [0]
        for _ in range(tensors):
            self.text()
            dimensions = self.number("I")
            if dimensions > 8:
                raise NotGguf("the GGUF header holds a tensor of more than 8 dimensions")
            elements = 1
            for _ in range(dimensions):
                elements *= self.number("Q")
            kind, offset = self.number("I"), self.number("Q")
            per_block, block_bytes = _BLOCKS.get(kind, (1, 0))
            ends.append(offset + elements // per_block * block_bytes)
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
            raise NotGguf(f"the GGUF header asks for an alignment of {alignment!r}")
        start = (self._file.tell() + alignment - 1) // alignment * alignment
        return _summary(values, start + max(ends) if tensors else self._file.tell())


def _summary(values: dict[str, int | float | str], whole_bytes: int) -> Header:
    architecture = str(values.get("general.architecture", ""))

    def number(key: str, default: int = 0) -> int:
        value = values.get(f"{architecture}.{key}", default)
        if not isinstance(value, int):
            return default  # some architectures keep one number per layer here: an array, which is not read
        if not 0 <= value <= NUMBER_MAX:
            raise NotGguf(f"the GGUF header says {architecture}.{key} is {value}")
        return value

    heads = max(1, number("attention.head_count", 1))
    embedding = number("embedding_length")
    return Header(
        architecture=architecture,
        name=str(values.get("general.name", "")),
        layers=number("block_count"),
        embedding_length=embedding,
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads) or heads,
        head_length=number("attention.key_length", embedding // heads),
        context_tokens=number("context_length"),
        has_chat_template="tokenizer.chat_template" in values,
        pools=number("pooling_type") > 0,
        whole_bytes=whole_bytes,
    )
