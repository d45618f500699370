"""What is known of an app's kept processes, laid beside them last: what a later Bastide must find the same to believe them.

It names no secret: of what an app was told in confidence it holds salted digests, so that it can be asked whether that still holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from bastide.adapters.runtime import proc
from bastide.domain.errors import StateLost
from bastide.domain.instances import LaunchSpec, ToldDigest

WHOLE = "whole"  # what is laid last: without it nothing here is believed
TAKEN = "taken"  # laid when it is brought back: from then on it may be of the past
FORMAT = 2
READ_WHOLE_BYTES_MAX = 1 << 20  # larger files hold memory, which is trusted as swap is: their length alone is compared
CHANGES = {  # in the order in which they are told
    "format": "another Bastide wrote it",
    "boot": "the machine was started again",
    "programs": "the programs that saved it changed",
    "launch": "what it is made of, or how it is run, changed",
}
_BOX = (
    "name",
    "tier",
    "arguments",
    "environment",
    "directory",
    "root",
    "mounts",
    "scratch",
    "listens",
    "hostname",
    "owner",
)


def is_kept(launch: LaunchSpec) -> bool:
    return bool(launch.state_directory) and os.path.exists(os.path.join(launch.state_directory, WHOLE))


def image_of(launch: LaunchSpec) -> Path:
    return Path(launch.state_directory) / "image"


def image_bytes(launch: LaunchSpec) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in image_of(launch).iterdir())
    return 0


def digest_of(told: tuple[tuple[str, str], ...]) -> ToldDigest:
    salt = secrets.token_hex(16)
    return ToldDigest(salt, tuple((name, ToldDigest.of(salt, name, value)) for name, value in told))


def lay(launch: LaunchSpec, programs: str, told: ToldDigest | None) -> None:
    """Say that all of it is there. `programs`: what saved it, and must bring it back."""
    about = {
        "format": FORMAT,
        "boot": proc.boot_id(),
        "programs": programs,
        "launch": _fingerprint(launch),
        "files": _files(launch),
        "told": dataclasses.asdict(told) if told is not None else None,
    }
    part = Path(launch.state_directory) / f"{WHOLE}.part"
    part.touch(mode=0o600)
    part.write_text(json.dumps(about))
    part.replace(part.with_name(WHOLE))


def take(launch: LaunchSpec) -> None:
    """It is about to be brought back: should we end in the midst of that, nobody may bring it back once more."""
    (Path(launch.state_directory) / TAKEN).touch(mode=0o600)


def believed(launch: LaunchSpec, programs: str) -> ToldDigest:
    """What it was told, where what an earlier Bastide kept of just this launch, on this boot, is whole and unused.

    Raises StateLost with what is wrong.
    """
    about = _about(launch)
    now = {"format": FORMAT, "boot": proc.boot_id(), "programs": programs, "launch": _fingerprint(launch)}
    changed = [what for name, what in CHANGES.items() if about.get(name) != now[name]]
    if (Path(launch.state_directory) / TAKEN).exists():
        changed.append("it was being brought back when Bastide ended")
    if changed or (harmed := harm(launch)):
        raise StateLost(f"what was kept of it can't be used: {changed[0] if changed else harmed}")
    try:
        told = about["told"]
        return ToldDigest(str(told["salt"]), tuple((str(name), str(digest)) for name, digest in told["digests"]))
    except (KeyError, TypeError, ValueError):
        raise StateLost("what was kept of it can't be used: it does not say what the app was told") from None


def harm(launch: LaunchSpec) -> str | None:
    """What is wrong with the files that are kept: they are not what was laid. None: they are."""
    try:
        was, now = _about(launch)["files"], _files(launch)
    except (StateLost, OSError) as error:
        return error.message if isinstance(error, StateLost) else f"it can't be read: {error}"
    changed = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
    return f"{', '.join(changed[:3])} on disk changed since it was laid there" if changed else None


def _about(launch: LaunchSpec) -> dict[str, Any]:
    """What was laid last: an object with `files`, of names. Raises StateLost where it is no such thing."""
    try:
        about = json.loads((Path(launch.state_directory) / WHOLE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StateLost(f"it can't be read: {type(error).__name__}") from None
    if not isinstance(about, dict) or not isinstance(about.get("files"), dict):
        raise StateLost("it can't be read: it is not what Bastide writes")
    return about


def _files(launch: LaunchSpec) -> dict[str, str]:
    """By name: its length, and a digest where that costs next to nothing."""
    found = {}
    for file in sorted(image_of(launch).iterdir()):
        size = file.stat().st_size
        found[file.name] = str(size)
        if size <= READ_WHOLE_BYTES_MAX:
            found[file.name] += f" {hashlib.sha256(file.read_bytes()).hexdigest()}"
    return found


def _fingerprint(launch: LaunchSpec) -> str:
    """Of all that the processes stand on; and of our own code that runs among them."""
    assert launch.box is not None and launch.serving is not None
    inside = Path(__file__).parents[2] / "inside"
    ours = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(inside.glob("*.py"))}
    box = dataclasses.asdict(launch.box)
    serving = launch.serving
    parts = ({name: box[name] for name in _BOX}, serving.argv, serving.directory, serving.port)
    rest = (
        launch.instance,
        [dataclasses.astuple(one) for one in launch.owned],
        launch.egress,
        launch.egress_tier,
        ours,
    )
    return hashlib.sha256(json.dumps((*parts, *rest), sort_keys=True).encode()).hexdigest()
