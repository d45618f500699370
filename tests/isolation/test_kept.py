"""What is kept of an app: looked at before it is believed, and not waited for longer than a cold start is worth."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from bastide.adapters.runtime import boxed, boxkept
from bastide.domain.errors import StateLost
from bastide.domain.instances import LaunchSpec, Serving
from bastide.domain.isolation import Box, Tier

BOX = Box("app-1", Tier.NAMESPACE, ("true",))


@pytest.fixture
def launch(tmp_path: Path) -> LaunchSpec:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "pages-1.img").write_bytes(bytes(boxkept.READ_WHOLE_BYTES_MAX + 1))
    (tmp_path / "image" / "core-1.img").write_bytes(b"registers")
    serving = Serving(("true",), "/", 8000)
    launch = LaunchSpec("p.app.0", "app", "", "", state_directory=str(tmp_path), box=BOX, serving=serving)
    boxkept.lay(launch, "criu 4", None)
    return launch


def test_what_was_laid_is_whole(launch: LaunchSpec) -> None:
    assert boxkept.is_kept(launch)
    assert boxkept.harm(launch) is None


@pytest.mark.parametrize(
    ("name", "now", "told"),
    [
        ("pages-1.img", b"", "pages-1.img on disk changed"),
        ("core-1.img", b"REGISTERS", "core-1.img on disk changed"),
        ("core-1.img", None, "core-1.img on disk changed"),
        ("other.img", b"", "other.img on disk changed"),
        ("../whole", b"{}", "can't be read"),
        ("../whole", b"\xff", "can't be read"),
        ("../whole", b'{"files": 5}', "not what Bastide writes"),
        ("../whole", b'{"files": []}', "not what Bastide writes"),
        ("../whole", b'["files"]', "not what Bastide writes"),
        ("../whole", b"[" * 200_000, "can't be read"),
    ],
)
def test_what_was_changed_is_named(launch: LaunchSpec, name: str, now: bytes | None, told: str) -> None:
    file = boxkept.image_of(launch) / name
    file.unlink(missing_ok=True)
    if now is not None:
        file.write_bytes(now)
    assert told in str(boxkept.harm(launch))


def test_what_an_earlier_life_kept_is_believed_or_it_is_said_why_not(launch: LaunchSpec) -> None:
    told = boxkept.digest_of((("TOKEN", "secret"),))
    boxkept.lay(launch, "criu 4", told)
    assert boxkept.believed(launch, "criu 4") == told
    with pytest.raises(StateLost, match="the programs that saved it changed"):
        boxkept.believed(launch, "criu 5")
    with pytest.raises(StateLost, match="how it is run, changed"):
        boxkept.believed(dataclasses.replace(launch, egress=("example.org",)), "criu 4")
    boxkept.take(launch)
    with pytest.raises(StateLost, match="being brought back when Bastide ended"):
        boxkept.believed(launch, "criu 4")
    boxkept.lay(launch, "criu 4", None)
    (boxkept.image_of(launch).parent / boxkept.TAKEN).unlink()
    with pytest.raises(StateLost, match="does not say what the app was told"):
        boxkept.believed(launch, "criu 4")
    (boxkept.image_of(launch).parent / "whole").write_text("[" * 200_000)
    with pytest.raises(StateLost, match="can't be read"):
        boxkept.believed(launch, "criu 4")


def test_one_that_does_not_come_back_well_is_given_up(launch: LaunchSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxed, "BACK_S", 0.05)

    class Back(boxed.Boxes):
        """Its agent is not there."""

        def keeps(self, launch: LaunchSpec) -> bool:
            return True

        def address(self, launch: LaunchSpec, pid: int, name: str) -> str:
            return f"{launch.state_directory}/nobody"

    async def wake() -> None:
        await Back().serve(launch, 1, asyncio.get_running_loop().create_future())

    with pytest.raises(StateLost, match="not well again within"):
        asyncio.run(wake())
