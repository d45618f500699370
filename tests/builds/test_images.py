"""Images: unpacked layer by layer to a root that a box's user can read, believed by digest alone, refused plainly."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from image_maker import CONFIG, archive, layout, second_layer, small_layer

from bastide.adapters.isolation.folders import interpreter
from bastide.builds.builder import Builder
from bastide.builds.images import program
from bastide.domain.apps import AppSpec, Build
from bastide.domain.errors import BastideError, InvalidRequest, Unsupported
from bastide.sdk.source import pack, pack_file


def _has(name: str) -> bool:
    try:
        program(name)
    except Unsupported:
        return False
    return True


needs_umoci = pytest.mark.skipif(not _has("umoci"), reason="umoci is not on this machine")


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "builds", interpreter())


def built(builder: Builder, image: Path, command: tuple[str, ...] = ()) -> Build:
    packed = pack(image) if image.is_dir() else pack_file(image)
    with packed.tar() as tar:
        builder.take_source(packed.digest, tar)
    return builder.build(AppSpec(image=packed.digest, command=command), lambda line: None)


@needs_umoci
def test_a_layout_and_an_archive_of_it_become_one_root(builder: Builder, tmp_path: Path) -> None:
    made = layout(tmp_path / "image", [small_layer(), second_layer()])
    build = built(builder, made)
    again = built(builder, archive(made, tmp_path / "image.tar"))
    root = Path(build.root)
    assert again.root == build.root and build.kind == "image"
    assert (root / "etc/mark").read_text() == "second" and not (root / "etc/gone").exists()
    assert stat.S_IMODE((root / "etc/mark").stat().st_mode) == 0o644, "the box's user is nobody the image knows"
    assert build.argv == ("python3", "/srv/serve.py") and build.directory == "/srv" and build.port == 5005
    assert build.environment == (("COLOUR", "green"),) and build.path == ("/opt/python/bin", "/bin")
    assert build.writes == ("/data", "/var/log")
    assert [path.name for path in (tmp_path / "builds/roots").iterdir()] == [root.name], "nothing else is left"


@needs_umoci
def test_unused_roots_are_collected(builder: Builder, tmp_path: Path) -> None:
    build = built(builder, layout(tmp_path / "image", [small_layer()]))
    builder.collect([], -1.0)
    assert not os.path.exists(build.root)


@needs_umoci
@pytest.mark.parametrize(("name", "links"), [("../../out", []), ("etc/link/under", [("etc/link", "/")])])
def test_a_layer_writes_nothing_outside(
    builder: Builder, tmp_path: Path, name: str, links: list[tuple[str, str]]
) -> None:
    bad = small_layer([name], links)
    try:
        root = built(builder, layout(tmp_path / "image", [bad]))
    except BastideError:
        root = None
    assert not (tmp_path / "builds/out").exists() and not (tmp_path / "out").exists() and not os.path.exists("/under")
    assert root is None or Path(root.root).is_relative_to(tmp_path)


def test_what_is_no_image_is_refused(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(InvalidRequest, match="no archive of an image"):
        built(builder, tmp_path / "text.tar")
    with pytest.raises(InvalidRequest, match=r"the image is for linux/s390x, this machine is linux/"):
        built(builder, layout(tmp_path / "other", [], architecture="s390x"))
    strange = layout(tmp_path / "strange", [], {**CONFIG, "WorkingDir": "/a/../../b"})
    with pytest.raises(InvalidRequest, match="no path inside"):
        built(builder, strange)


def test_a_document_that_is_not_what_its_digest_says_is_refused(builder: Builder, tmp_path: Path) -> None:
    made = layout(tmp_path / "image", [])
    digest = json.loads((made / "index.json").read_text())["manifests"][0]["digest"].partition(":")[2]
    (made / "blobs/sha256" / digest).write_text("{}")
    with pytest.raises(InvalidRequest, match="is not what its name says"):
        built(builder, made)


def test_a_link_in_a_layout_is_refused(builder: Builder, tmp_path: Path) -> None:
    """It could make a layer out of a file of the host's."""
    made = layout(tmp_path / "image", [])
    (made / "blobs/sha256" / ("0" * 64)).symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequest, match="holds links"):
        built(builder, made)
