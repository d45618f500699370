"""The contract of the weights port, on the library and on the simulator's fake alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bastide.adapters.weights import fetchers
from bastide.builtin import tiny
from bastide.domain.errors import InvalidRequest, NotFound
from bastide.domain.spec import ModelSource
from bastide.ports.weights import Weights
from bastide.sim.weights import SimWeights
from bastide.weights.library import Library
from bastide.wiring.adapters import BuiltinModels

PLENTY = 2**40
WRONG = "0" * 64


def unheard(done_bytes: int, total_bytes: int | None) -> None:
    """Nobody listens to this progress."""


@dataclass(frozen=True)
class Case:
    """`url` is there, and so is `other`; nothing is at `nowhere`. `again` opens the same weights anew."""

    weights: Weights
    url: str
    other: str
    nowhere: str
    weights_bytes: int
    sha256: str
    again: Callable[[], Weights]


@pytest.fixture(params=["library", "simulated"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    data = tiny.weights_path().read_bytes()
    if request.param == "simulated":
        sizes = {"sim://a": len(data), "sim://b": 10}
        simulated = SimWeights(sizes)
        digest = hashlib.sha256(b"sim://a").hexdigest()
        return Case(simulated, "sim://a", "sim://b", "sim://none", len(data), digest, lambda: simulated)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(data)

    def library() -> Library:
        return Library(str(tmp_path / "kept"), BuiltinModels(tmp_path / "made"), fetchers())

    urls = [(tmp_path / name).as_uri() for name in ("a.gguf", "b.gguf", "none.gguf")]
    return Case(library(), *urls, len(data), hashlib.sha256(data).hexdigest(), library)  # type: ignore[call-arg, arg-type]


def test_nothing_is_here_before_it_is_fetched(case: Case) -> None:
    assert case.weights.resolve(ModelSource(case.url)) is None
    assert case.weights.kept() == ()
    assert case.weights.inspect(ModelSource(case.url)) is None


def test_what_was_fetched_is_here(case: Case) -> None:
    told: list[int] = []
    fetched = case.weights.fetch(ModelSource(case.url), PLENTY, lambda done, total: told.append(done))
    assert (fetched.sha256, fetched.weights_bytes) == (case.sha256, case.weights_bytes)
    assert told[-1] == case.weights_bytes
    assert told == sorted(told)
    for weights in (case.weights, case.again()):
        assert weights.resolve(ModelSource(case.url)) == fetched
        (kept,) = weights.kept()
        assert (kept.url, kept.sha256, kept.weights_bytes) == (case.url, case.sha256, case.weights_bytes)


def test_fetching_again_changes_nothing(case: Case) -> None:
    first = case.weights.fetch(ModelSource(case.url), PLENTY, unheard)
    assert case.weights.fetch(ModelSource(case.url), PLENTY, unheard) == first
    assert len(case.weights.kept()) == 1


def test_kept_is_in_order_of_url(case: Case) -> None:
    for url in (case.other, case.url):
        case.weights.fetch(ModelSource(url), PLENTY, unheard)
    assert [kept.url for kept in case.weights.kept()] == sorted((case.url, case.other))


def test_what_is_nowhere_is_not_found(case: Case) -> None:
    assert case.weights.inspect(ModelSource(case.nowhere)) is not None
    with pytest.raises(NotFound):
        case.weights.fetch(ModelSource(case.nowhere), PLENTY, unheard)
    assert case.weights.kept() == ()


def test_more_than_the_budget_is_refused(case: Case) -> None:
    with pytest.raises(InvalidRequest, match="budget"):
        case.weights.fetch(ModelSource(case.url), case.weights_bytes - 1, unheard)
    assert case.weights.kept() == ()
    case.weights.fetch(ModelSource(case.url), case.weights_bytes, unheard)


def test_the_checksum_asked_for_must_be_the_one(case: Case) -> None:
    with pytest.raises(InvalidRequest, match="checksum"):
        case.weights.fetch(ModelSource(case.url, WRONG), PLENTY, unheard)
    assert case.weights.kept() == ()
    case.weights.fetch(ModelSource(case.url, case.sha256), PLENTY, unheard)
    assert case.weights.resolve(ModelSource(case.url, case.sha256)) is not None
    assert case.weights.resolve(ModelSource(case.url, WRONG)) is None


def test_what_is_removed_is_gone(case: Case) -> None:
    case.weights.fetch(ModelSource(case.url), PLENTY, unheard)
    case.weights.remove(case.url)
    assert case.weights.resolve(ModelSource(case.url)) is None
    assert case.weights.kept() == ()


def test_removing_what_is_not_here_is_not_found(case: Case) -> None:
    with pytest.raises(NotFound):
        case.weights.remove(case.nowhere)
