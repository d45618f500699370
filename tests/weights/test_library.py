"""The library on real files and on a local server that can be told to fail: whole and right, or not at all."""

from __future__ import annotations

import hashlib
import threading
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
DATA = gguf(elements=1_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


def unheard(done_bytes: int, total_bytes: int | None) -> None:
    """Nobody listens to this progress."""


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(str(tmp_path / "kept"), BuiltinModels(tmp_path / "made"), fetchers())


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    with Shelf().open() as opened:
        opened.files["/model.gguf"] = DATA
        yield opened


def url(shelf: Shelf, path: str = "/model.gguf") -> str:
    return shelf.url + path


def blobs(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "kept/blobs").iterdir())


# --- local files -------------------------------------------------------------------------------------------------------


def test_a_local_file_is_used_where_it_is(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "a model.gguf"
    file.write_bytes(DATA)
    fetched = library.fetch(ModelSource(file.as_uri()), PLENTY, unheard)
    assert fetched.path == str(file)
    assert blobs(tmp_path) == []
    assert library.remove(file.as_uri()) == 0
    assert file.exists()


def test_a_local_file_that_changed_is_noticed(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(DATA)
    source = ModelSource(file.as_uri())
    first = library.fetch(source, PLENTY, unheard)
    file.write_bytes(gguf(elements=1_000_000, salt="2"))
    assert library.resolve(source) is None
    assert library.fetch(source, PLENTY, unheard).sha256 != first.sha256
    file.unlink()
    assert library.resolve(source) is None
    assert "no file" in str(library.inspect(source))


@pytest.mark.parametrize("wrong", ["file://elsewhere/model.gguf", "file://relative.gguf", "builtin://huge"])
def test_a_url_that_names_nothing_here_says_so(library: Library, wrong: str) -> None:
    assert library.inspect(ModelSource(wrong))
    with pytest.raises((InvalidRequest, NotFound)):
        library.fetch(ModelSource(wrong), PLENTY, unheard)


def test_a_truncated_local_file_is_refused_before_anything_starts(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(DATA[:-100])
    assert "truncated" in str(library.inspect(ModelSource(file.as_uri())))
    with pytest.raises(InvalidRequest, match="truncated"):
        library.fetch(ModelSource(file.as_uri()), PLENTY, unheard)


def test_the_built_in_model_has_three_forms(library: Library) -> None:
    files = [library.fetch(ModelSource(f"builtin://tiny{form}"), PLENTY, unheard) for form in ("", "-f16", "-q4_0")]
    assert len({file.sha256 for file in files}) == 3
    assert files[1].weights_bytes > files[0].weights_bytes > files[2].weights_bytes


# --- downloads ---------------------------------------------------------------------------------------------------------


def test_a_download_is_kept_by_its_content(library: Library, shelf: Shelf, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    fetched = library.fetch(ModelSource(url(shelf), DIGEST), PLENTY, lambda *now: told.append(now))
    assert Path(fetched.path).read_bytes() == DATA
    assert blobs(tmp_path) == [DIGEST]
    assert told[-1] == (len(DATA), len(DATA))
    assert told == sorted(told)
    count = len(shelf.seen)
    library.fetch(ModelSource(url(shelf), DIGEST), PLENTY, unheard)
    assert len(shelf.seen) == count, "what is here is not asked for again"


def test_a_broken_connection_is_gone_on_with(library: Library, shelf: Shelf) -> None:
    shelf.break_after = [1_500_000, 1_000_000]
    fetched = library.fetch(ModelSource(url(shelf), DIGEST), PLENTY, unheard)
    assert fetched.sha256 == DIGEST
    first, *later = shelf.gets()
    assert first is None
    assert len(later) == 2
    assert all(ranges is not None and int(ranges.removeprefix("bytes=").rstrip("-")) > 0 for ranges in later)


def test_a_later_try_goes_on_where_the_first_broke_off(library: Library, shelf: Shelf, tmp_path: Path) -> None:
    shelf.break_after = [2_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(Unavailable, match="goes on from there"):
        library.fetch(ModelSource(url(shelf), DIGEST), PLENTY, unheard)
    shelf.break_after, shelf.seen = [], []
    again = Library(str(tmp_path / "kept"), BuiltinModels(tmp_path / "made"), fetchers())
    assert again.fetch(ModelSource(url(shelf), DIGEST), PLENTY, unheard).sha256 == DIGEST
    (ranges,) = shelf.gets()
    assert ranges is not None and int(ranges.removeprefix("bytes=").rstrip("-")) >= 1_000_000


def test_a_file_that_changed_meanwhile_begins_anew(library: Library, shelf: Shelf) -> None:
    shelf.break_after = [2_000_000, 0]
    with pytest.raises(Unavailable):
        library.fetch(ModelSource(url(shelf)), PLENTY, unheard)
    shelf.break_after, shelf.seen = [], []
    other = gguf(elements=1_000_000, salt="2")
    shelf.files["/model.gguf"] = other
    fetched = library.fetch(ModelSource(url(shelf)), PLENTY, unheard)
    assert fetched.sha256 == hashlib.sha256(other).hexdigest()
    assert shelf.gets() == [None]


def test_without_a_tag_nothing_is_gone_on_with(library: Library, shelf: Shelf) -> None:
    shelf.break_after = [2_000_000, 0]
    with pytest.raises(Unavailable):
        library.fetch(ModelSource(url(shelf)), PLENTY, unheard)
    shelf.break_after, shelf.seen = [], []
    shelf.tells_tag = False
    library.fetch(ModelSource(url(shelf)), PLENTY, unheard)
    assert shelf.gets() in ([None], ["bytes=2000000-"])  # by its date, or anew; right in either case


def test_a_server_that_knows_no_ranges_is_read_from_the_start(library: Library, shelf: Shelf) -> None:
    shelf.knows_ranges = False
    shelf.break_after = [2_000_000]
    assert library.fetch(ModelSource(url(shelf), DIGEST), PLENTY, unheard).sha256 == DIGEST


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_server_that_allows_no_head_is_asked_otherwise(library: Library, shelf: Shelf, knows_ranges: bool) -> None:
    shelf.head_status, shelf.knows_ranges = 405, knows_ranges
    assert library.fetch(ModelSource(url(shelf), DIGEST), PLENTY, unheard).sha256 == DIGEST
    with pytest.raises(InvalidRequest, match="budget"):
        library.fetch(ModelSource(url(shelf) + "?again"), len(DATA) - 1, unheard)


def test_redirects_are_followed(library: Library, shelf: Shelf) -> None:
    assert library.fetch(ModelSource(url(shelf, "/moved/model.gguf"), DIGEST), PLENTY, unheard).sha256 == DIGEST


def test_a_redirect_that_never_ends_is_given_up(library: Library, shelf: Shelf) -> None:
    with pytest.raises(Unavailable):
        library.fetch(ModelSource(url(shelf, "/moved" * 9 + "/model.gguf")), PLENTY, unheard)


def test_larger_than_the_budget_is_refused_before_it_is_fetched(library: Library, shelf: Shelf) -> None:
    with pytest.raises(InvalidRequest, match="budget"):
        library.fetch(ModelSource(url(shelf)), len(DATA) - 1, unheard)
    assert shelf.gets() == []


def test_a_server_that_tells_no_length_can_not_pass_the_budget(library: Library, shelf: Shelf, tmp_path: Path) -> None:
    shelf.tells_length = False
    with pytest.raises(InvalidRequest, match="budget"):
        library.fetch(ModelSource(url(shelf)), len(DATA) // 2, unheard)
    assert list((tmp_path / "kept/partial").iterdir()) == []
    assert library.fetch(ModelSource(url(shelf), DIGEST), PLENTY, unheard).sha256 == DIGEST


def test_a_server_that_sends_more_than_it_said_is_cut_off(library: Library, shelf: Shelf, tmp_path: Path) -> None:
    shelf.announced = 1000
    with pytest.raises(InvalidRequest, match="announced"):
        library.fetch(ModelSource(url(shelf)), PLENTY, unheard)
    assert list((tmp_path / "kept/partial").iterdir()) == []


def test_a_wrong_checksum_leaves_nothing(library: Library, shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="checksum"):
        library.fetch(ModelSource(url(shelf), "0" * 64), PLENTY, unheard)
    assert blobs(tmp_path) == []
    assert library.kept() == ()


def test_a_wrong_checksum_for_one_url_leaves_the_other_urls_file(library: Library, shelf: Shelf) -> None:
    source = ModelSource(url(shelf), DIGEST)
    library.fetch(source, PLENTY, unheard)
    with pytest.raises(InvalidRequest, match="checksum"):
        library.fetch(ModelSource(url(shelf) + "?other", "0" * 64), PLENTY, unheard)
    assert library.resolve(source) is not None


def test_what_is_not_gguf_is_not_kept(library: Library, shelf: Shelf, tmp_path: Path) -> None:
    shelf.files["/page.gguf"] = b"<html>please sign in</html>"
    with pytest.raises(InvalidRequest, match="not GGUF"):
        library.fetch(ModelSource(url(shelf, "/page.gguf")), PLENTY, unheard)
    assert blobs(tmp_path) == []


def test_nothing_there(library: Library, shelf: Shelf) -> None:
    with pytest.raises(NotFound, match="nothing at"):
        library.fetch(ModelSource(url(shelf, "/none.gguf")), PLENTY, unheard)


def test_nobody_there(library: Library) -> None:
    with Shelf().open() as gone:
        pass
    with pytest.raises(Unavailable, match="can't be reached"):
        library.fetch(ModelSource(gone.url + "/model.gguf"), PLENTY, unheard)


def test_content_that_two_urls_share_is_kept_until_both_are_gone(library: Library, shelf: Shelf) -> None:
    one, two = ModelSource(url(shelf)), ModelSource(url(shelf) + "?two")
    first = library.fetch(one, PLENTY, unheard)
    assert library.fetch(two, PLENTY, unheard).path == first.path
    assert library.resolve(one) is not None, "the second download must not spoil the first"
    assert library.remove(one.url) == 0
    assert library.resolve(two) is not None
    assert library.remove(two.url) == len(DATA)
    assert not Path(first.path).exists()


def test_a_broken_download_can_be_given_up(library: Library, shelf: Shelf, tmp_path: Path) -> None:
    shelf.break_after = [2_000_000, 0]
    with pytest.raises(Unavailable):
        library.fetch(ModelSource(url(shelf)), PLENTY, unheard)
    assert library.remove(url(shelf)) > 0
    assert list((tmp_path / "kept/partial").iterdir()) == []


def test_two_that_fetch_the_same_at_once_fetch_it_once(library: Library, shelf: Shelf) -> None:
    found: list[str] = []
    source = ModelSource(url(shelf), DIGEST)
    threads = [
        threading.Thread(target=lambda: found.append(library.fetch(source, PLENTY, unheard).sha256)) for _ in "12"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [DIGEST, DIGEST]
    assert shelf.gets() == [None]
