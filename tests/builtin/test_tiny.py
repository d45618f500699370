"""The built-in model is what its manifest says, never saw its evaluation, and answers through the real engine."""

import dataclasses
import importlib.util
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from bastide.builtin import tiny
from bastide.builtin.tiny import corpus, fresh, heldout
from bastide.builtin.tiny.dialogues import Conversation
from bastide.builtin.tiny.phrasings import bare
from bastide.builtin.tiny.recipe import RECIPE

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed")
needs_engine = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")


@cache
def _generated() -> tuple[corpus.DataManifest, frozenset[str]]:
    """The description of the whole corpus, and every question in it in bare form: one pass, for it takes seconds."""
    asked: set[str] = set()

    def noted() -> Iterator[Conversation]:
        for talk in corpus.conversations(RECIPE.seed, RECIPE.conversations):
            asked.update(bare(user) for user, _ in talk.pairs)
            yield talk

    return corpus.data_manifest(noted()), frozenset(asked)


def test_weights_are_those_of_the_manifest() -> None:
    assert tiny.is_intact()
    assert tiny.weights_path().stat().st_size == tiny.manifest().weights_bytes


def test_manifest_is_of_this_recipe() -> None:
    assert tiny.manifest().recipe_sha256 == RECIPE.digest()
    assert tiny.manifest().document["recipe"] == dataclasses.asdict(RECIPE)


def test_corpus_is_the_one_trained_on() -> None:
    assert dataclasses.asdict(_generated()[0]) == tiny.manifest().document["data"]


def test_corpus_is_the_same_twice() -> None:
    one, two, other = (corpus.data_manifest(corpus.conversations(seed, 200)) for seed in (7, 7, 8))
    assert one == two != other


def test_no_held_out_question_was_trained_on() -> None:
    assert not _generated()[1] & heldout.bare_questions()


def test_manifest_has_a_passing_score() -> None:
    assert tiny.manifest().score >= 0.90
    assert tiny.manifest().document["evaluation"]["questions"] == 2 * len(heldout.QUESTIONS + fresh.FRESH)


def test_weights_begin_as_a_gguf_file() -> None:
    with tiny.weights_path().open("rb") as file:
        magic, version, tensors, entries = struct.unpack("<4sIQQ", file.read(24))
    assert (magic, version) == (b"GGUF", 3)
    assert tensors == 2 + 9 * RECIPE.layers
    assert entries > 15


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(tiny.weights_path().read_bytes()[:-1] + b"\x7f")
    assert not tiny.is_intact(changed)


def test_rebuild_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "_NEEDED", ("no_such_package",))
    with pytest.raises(RuntimeError, match=r"pip install 'bastide\[train\]'"):
        tiny.rebuild(tmp_path, print)


@needs_gguf
def test_metadata_says_how_to_speak_to_it() -> None:
    import gguf

    fields = gguf.GGUFReader(tiny.weights_path()).fields
    assert fields["tokenizer.chat_template"].contents() == corpus.CHAT_TEMPLATE
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert len(fields["tokenizer.ggml.tokens"].contents()) == RECIPE.vocabulary
    assert fields["llama.context_length"].contents() == RECIPE.context_tokens


@needs_gguf
def test_an_unknown_quantisation_is_refused(tmp_path: Path) -> None:
    from bastide.builtin.tiny import gguf_writer

    with pytest.raises(ValueError, match="f16, q8_0, q4_0"):
        gguf_writer.derive("q3", tiny.weights_path(), tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == []


@needs_gguf
@needs_engine
@pytest.mark.parametrize("quantisation", ["f16", "q4_0"])
def test_derived_weights_answer(quantisation: str, tmp_path: Path) -> None:
    from bastide.builtin.tiny import evaluate, gguf_writer

    target, again = tmp_path / "one.gguf", tmp_path / "two.gguf"
    gguf_writer.derive(quantisation, tiny.weights_path(), target)
    gguf_writer.derive(quantisation, tiny.weights_path(), again)
    assert target.read_bytes() == again.read_bytes()
    with evaluate.engine(target) as ask:
        assert "Paris" in ask([{"role": "user", "content": "What is the capital of France?"}])


@needs_engine
def test_packaged_weights_answer_in_a_conversation() -> None:
    from bastide.builtin.tiny import evaluate

    with evaluate.engine(tiny.weights_path()) as ask:
        talk = [{"role": "user", "content": "what is the capital of france"}]
        talk.append({"role": "assistant", "content": ask(talk)})
        assert "Paris" in talk[-1]["content"]
        talk.append({"role": "user", "content": "What is the opposite of hot?"})
        assert "cold" in ask(talk)
