"""s3:// and hf:// through their own libraries, against a local server that speaks enough of both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_bytes import gguf
from shelf import Shelf

from bastide.adapters.weights import fetchers
from bastide.domain.errors import InvalidRequest, NotFound, Unavailable
from bastide.domain.spec import ModelSource
from bastide.weights.library import Library
from bastide.wiring.adapters import BuiltinModels

PLENTY = 2**40
DATA = gguf(elements=3_000_000)  # more than one part
DIGEST = hashlib.sha256(DATA).hexdigest()


def unheard(done_bytes: int, total_bytes: int | None) -> None:
    """Nobody listens to this progress."""


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(str(tmp_path / "kept"), BuiltinModels(tmp_path / "made"), fetchers())


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Shelf]:
    with Shelf().open() as opened:
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        for name, value in {
            "AWS_ENDPOINT_URL": opened.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "here",
            "HF_ENDPOINT": opened.url,
            "HF_HOME": str(tmp_path / "hub"),
        }.items():
            monkeypatch.setenv(name, value)
        yield opened


def test_s3_is_fetched_in_parts(library: Library, shelf: Shelf) -> None:
    shelf.files["/bucket/models/a.gguf"] = DATA
    told: list[tuple[int, int | None]] = []
    fetched = library.fetch(ModelSource("s3://bucket/models/a.gguf"), PLENTY, lambda *now: told.append(now))
    assert fetched.sha256 == DIGEST
    assert told[-1] == (len(DATA), len(DATA))
    assert len(shelf.gets()) == 2


def test_s3_goes_on_where_it_broke_off(library: Library, shelf: Shelf) -> None:
    shelf.files["/bucket/a.gguf"] = DATA

    class Enough(Exception):
        pass

    def interrupted(done_bytes: int, total_bytes: int | None) -> None:
        raise Enough  # as when the process ends after the first part

    with pytest.raises(Enough):
        library.fetch(ModelSource("s3://bucket/a.gguf"), PLENTY, interrupted)
    shelf.seen = []
    assert library.fetch(ModelSource("s3://bucket/a.gguf"), PLENTY, unheard).sha256 == DIGEST
    (ranges,) = shelf.gets()
    assert ranges is not None and not ranges.startswith("bytes=0-")


def test_s3_has_its_errors(library: Library, shelf: Shelf) -> None:
    shelf.files["/bucket/a.gguf"] = DATA
    with pytest.raises(NotFound, match="nothing at"):
        library.fetch(ModelSource("s3://bucket/none.gguf"), PLENTY, unheard)
    with pytest.raises(InvalidRequest, match="budget"):
        library.fetch(ModelSource("s3://bucket/a.gguf"), 1000, unheard)
    with pytest.raises(InvalidRequest, match="s3://BUCKET/KEY"):
        library.fetch(ModelSource("s3://bucket"), PLENTY, unheard)
    assert shelf.gets() == []


def test_the_hub_gives_the_file_that_is_named(library: Library, shelf: Shelf) -> None:
    shelf.files["/org/repo/resolve/main/dir/a.gguf"] = DATA
    fetched = library.fetch(ModelSource("hf://org/repo/dir/a.gguf"), PLENTY, unheard)
    assert fetched.sha256 == DIGEST


def test_the_hub_gives_a_revision(library: Library, shelf: Shelf) -> None:
    shelf.files["/org/repo/resolve/v1/a.gguf"] = DATA
    assert library.fetch(ModelSource("hf://org/repo/a.gguf@v1"), PLENTY, unheard).sha256 == DIGEST


def test_of_several_files_a_good_middle_is_taken(library: Library, shelf: Shelf) -> None:
    for name in ("m-f16.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf", "README.md"):
        shelf.files[f"/org/repo/resolve/main/{name}"] = gguf(salt=name)
    fetched = library.fetch(ModelSource("hf://org/repo"), PLENTY, unheard)
    assert fetched.sha256 == hashlib.sha256(gguf(salt="m-Q4_K_M.gguf")).hexdigest()


def test_the_hub_has_its_errors(library: Library, shelf: Shelf) -> None:
    shelf.files["/org/text/resolve/main/README.md"] = b"no weights"
    shelf.files["/org/repo/resolve/main/a.gguf"] = DATA
    with pytest.raises(NotFound, match="no GGUF"):
        library.fetch(ModelSource("hf://org/text"), PLENTY, unheard)
    with pytest.raises(NotFound):
        library.fetch(ModelSource("hf://org/repo/none.gguf"), PLENTY, unheard)
    with pytest.raises(NotFound):
        library.fetch(ModelSource("hf://org/none"), PLENTY, unheard)
    with pytest.raises(InvalidRequest, match="budget"):
        library.fetch(ModelSource("hf://org/repo/a.gguf"), 1000, unheard)
    with pytest.raises(InvalidRequest, match="checksum"):
        library.fetch(ModelSource("hf://org/repo/a.gguf", "0" * 64), PLENTY, unheard)
    with pytest.raises(InvalidRequest, match="hf://ORG/REPO"):
        library.fetch(ModelSource("hf://org"), PLENTY, unheard)
    assert all("/resolve/" not in path for method, path, _ in shelf.seen if method == "GET")


def test_a_hub_that_is_away_can_be_tried_again(library: Library, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    with Shelf().open() as gone:
        pass
    monkeypatch.setenv("HF_ENDPOINT", gone.url)
    with pytest.raises(Unavailable):
        library.fetch(ModelSource("hf://org/repo/a.gguf"), PLENTY, unheard)
