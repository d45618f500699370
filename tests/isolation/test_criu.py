"""CRIU as a guest: which boxes it may be let near, where it is found, and the one number of its images that is changed."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastide.adapters.isolation import criu
from bastide.adapters.runtime import criuimages
from bastide.domain.isolation import Box, Mount, Scratch, Tier

BOX = Box("app-1", Tier.NAMESPACE, ("true",))


@pytest.mark.parametrize("target", ["/data", "/srv/app/cache", "/dev/shm", "/home/user", "/opt/x"])
def test_a_box_that_writes_to_its_own_places_may_be_kept(target: str) -> None:
    assert criu.unkept(replace(BOX, scratch=(Scratch(target, 1),))) is None
    assert criu.unkept(replace(BOX, mounts=(Mount("/somewhere", target, writable=True),))) is None


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/etc",
        "/etc/app",
        "/usr/lib/criu",
        "/lib64",
        "/run",
        "/proc/x",
        "/dev",
        "/root/.criu",
        "//etc",
        "/./etc",
        "/data/../etc",
    ],
)
def test_one_that_could_lay_what_programs_believe_may_not(target: str) -> None:
    assert criu.unkept(replace(BOX, scratch=(Scratch(target, 1),))) is not None
    assert criu.unkept(replace(BOX, mounts=(Mount("/somewhere", target, writable=True),))) is not None
    if target not in ("/", "/proc/x"):
        assert criu.unkept(replace(BOX, mounts=(Mount("/somewhere", target),))) is None, (
            "what it can't write to is ours"
        )


def test_neither_may_an_image_nor_one_behind_a_wall() -> None:
    assert criu.unkept(replace(BOX, root="/images/1")) is not None
    assert criu.unkept(replace(BOX, network_namespace="/run/netns/x")) is not None


@pytest.mark.skipif(os.getuid() != 0, reason="as another than root it is not looked for")
def test_what_is_no_program_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "criu"
    script.write_text("#!/bin/sh\ntouch ran\n")
    script.chmod(0o755)
    for named, said in ((str(script), "a script"), ("none", "not here"), ("/bin/true", "does not run")):
        monkeypatch.setenv("CRIU_PATH", named)
        found = criu.find()
        assert said in found.lacks and found.mend
    assert not (tmp_path / "ran").exists()


NUMBERS = st.integers(0, 2**40)


@given(
    ours=st.lists(NUMBERS, min_size=12, max_size=12),
    theirs=st.lists(NUMBERS, min_size=12, max_size=12),
    rest=st.binary(),
)
def test_one_number_of_the_images_is_changed_and_nothing_else(
    ours: list[int], theirs: list[int], rest: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("image")
    rest_field = criuimages._field(9 << 3 | 2, rest)

    def inventory(ids: list[int]) -> bytes:
        told = b"".join(criuimages._field(at << 3, value) for at, value in enumerate(ids, 1))
        body = criuimages._field(1 << 3, 2) + criuimages._field(3 << 3 | 2, told) + rest_field
        return b"\x16\x31\x31\x58" + struct.pack("<I", len(body)) + body

    (folder / "inventory.img").write_bytes(inventory(ours))
    told = b"".join(criuimages._field(at << 3, value) for at, value in enumerate(theirs, 1))
    (folder / "ids-2.img").write_bytes(bytes(8) + struct.pack("<I", len(told)) + told)
    image = os.open(folder, os.O_RDONLY)
    try:
        criuimages.as_guest(image, 2)
    finally:
        os.close(image)
    expected = [theirs[9] if at == 9 else value for at, value in enumerate(ours)]
    assert (folder / "inventory.img").read_bytes() == inventory(expected)


def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inventory.img").write_bytes(b"\x16\x31\x31\x58" + struct.pack("<I", 7) + b"short")
    (tmp_path / "ids-2.img").write_bytes(bytes(12))
    image = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises((OSError, struct.error)):
            criuimages.as_guest(image, 2)
    finally:
        os.close(image)
