"""What is no whole GGUF file is refused at once, whatever lies in it: always NotGguf, never a crash or a long run."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from pathlib import Path

import pytest
from gguf_bytes import gguf, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from bastide.builtin import tiny
from bastide.weights.gguf_header import NotGguf, read_header

WHOLE = gguf()
LIES = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(directory: Path, data: bytes) -> str:
    path = directory / "model.gguf"
    path.write_bytes(data)
    return str(path)


def refused(path: str) -> str:
    began = time.process_time()
    with pytest.raises(NotGguf) as caught:
        read_header(path)
    assert time.process_time() - began < 5.0
    return str(caught.value)


def test_a_whole_file_says_what_it_is(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, WHOLE))
    assert (header.architecture, header.layers, header.embedding_length) == ("llama", 2, 64)
    assert (header.heads, header.kv_heads, header.head_length, header.context_tokens) == (4, 2, 16, 512)
    assert header.has_chat_template
    assert header.whole_bytes == len(WHOLE)


def test_the_built_in_model_is_whole() -> None:
    header = read_header(str(tiny.weights_path()))
    assert header.architecture == "llama"
    assert header.whole_bytes <= tiny.weights_path().stat().st_size


@pytest.mark.parametrize(
    "data", [b"", b"G", b"GGUF", b"PK\x03\x04" + bytes(100), b"<html>not found</html>", b"ggml" + bytes(100)]
)
def test_something_else_is_refused(tmp_path: Path, data: bytes) -> None:
    refused(written(tmp_path, data))


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_truncated_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    refused(written(tmp_path, WHOLE[:length]))


@given(share=some.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_real_model_truncated_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    whole = tiny.weights_path().read_bytes()
    message = refused(written(tmp_path, whole[: int(share * len(whole))]))
    assert "model.gguf" in message


@given(place=some.integers(4, len(WHOLE) - 256), lie=some.binary(min_size=1, max_size=16))
@LIES
def test_no_lie_crashes_or_takes_long(tmp_path: Path, place: int, lie: bytes) -> None:
    path = written(tmp_path, WHOLE[:place] + lie + WHOLE[place + len(lie) :])
    began = time.process_time()
    with contextlib.suppress(NotGguf):
        read_header(path)
    assert time.process_time() - began < 5.0


@given(data=some.binary(max_size=400))
@LIES
def test_no_rubbish_after_the_mark_crashes(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path, b"GGUF" + struct.pack("<I", 3) + data)
    with contextlib.suppress(NotGguf):
        read_header(path)


@pytest.mark.parametrize("count", [2**20, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("where", ["tensors", "keys", "text", "numbers", "texts"])
def test_huge_counts_cost_nothing(tmp_path: Path, where: str, count: int) -> None:
    counts = struct.pack("<QQ", count if where == "tensors" else 0, count if where == "keys" else 1)
    data = b"GGUF" + struct.pack("<I", 3) + counts
    if where == "text":
        data += struct.pack("<Q", count)
    elif where == "numbers":
        data += text("k") + struct.pack("<IIQ", 9, 10, count)
    elif where == "texts":
        data += text("k") + struct.pack("<IIQ", 9, 8, count)
    refused(written(tmp_path, data + bytes(64)))


def test_a_long_file_of_zeros_is_not_walked_through(tmp_path: Path) -> None:
    """An array that claims a text for every eight zeros of a sparse file as long as a real model."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**33)
    path = written(tmp_path, head)
    os.truncate(path, 2**36)
    refused(path)


@pytest.mark.parametrize("alignment", [0, -1, -32, 2**60, "abc", float("nan"), 1.5])
def test_a_foolish_alignment_is_refused(tmp_path: Path, alignment: object) -> None:
    refused(written(tmp_path, gguf(more={"general.alignment": alignment})))


@pytest.mark.parametrize("number", [-1, 2**62])
def test_foolish_numbers_are_refused(tmp_path: Path, number: int) -> None:
    refused(written(tmp_path, gguf(more={"llama.block_count": number})))


def test_numbers_per_layer_are_left_alone(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, gguf(more={"llama.attention.head_count_kv": [1, 2]})))
    assert header.kv_heads == header.heads


def test_a_tensor_beyond_the_end_is_refused(tmp_path: Path) -> None:
    assert "truncated" in refused(written(tmp_path, WHOLE[:-1]))
