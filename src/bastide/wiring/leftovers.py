"""What boxes of a Bastide that was killed have left, cleared before the next one starts anything.

Boxes die with their keeper, but whoever is frozen by a control group of version 1 dies only once it is thawed; and the
next Bastide may never need a box, or know of those before.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from bastide.wiring.places import Places
from bastide.wiring.running import answers

MOUNT = Path("/sys/fs/cgroup")


def clear(places: Places) -> None:
    """Groups and sockets of boxes whose keeper is gone. Nothing of ours runs yet, but for keepers that outlived the others."""
    for use, keeper in (("apps", places.keeper_socket), ("sandboxes", places.boxes_keeper_socket)):
        if answers(keeper):
            continue
        for sockets in (places.sockets / use[0], places.sockets / "e" / use[0]):
            shutil.rmtree(sockets, ignore_errors=True)
        folder = f"{places.private_name}-{use}"
        unified = (MOUNT / "cgroup.controllers").exists()
        left = MOUNT.rglob(f"bastide-{folder}") if unified else MOUNT.glob(f"*/bastide/{folder}")
        if not any(left):
            continue
        from bastide.adapters.isolation.groups import Groups

        groups = Groups(folder)
        for name in groups.names():
            with contextlib.suppress(OSError):
                groups.remove(name)
        groups.remove_all()
