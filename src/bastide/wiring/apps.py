"""Putting apps together: their builder, their boxes, and what boxes have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from bastide.adapters.isolation.folders import interpreter
from bastide.adapters.isolation.roots import foreign_interpreter
from bastide.adapters.runtime.boxed import Boxes, Exits
from bastide.builds.builder import Builder
from bastide.domain.errors import Unsupported
from bastide.domain.isolation import Mount, Tier
from bastide.engines.app import DOOR, DOOR_PORT
from bastide.engines.port import BoxPlace
from bastide.inside import DIRECTORY, SHOWN_AT, arguments
from bastide.ports.isolation import Isolation
from bastide.wiring.launch import Launch
from bastide.wiring.places import Places


def builder(places: Places) -> Builder:
    return Builder(places.builds, interpreter())


def box_place(places: Places) -> BoxPlace:
    program, needs = interpreter()
    inside = Mount(str(DIRECTORY), SHOWN_AT)
    image_arguments: tuple[str, ...] = ()
    image_mounts: tuple[Mount, ...] = ()
    with contextlib.suppress(Unsupported):  # an image is then refused where it is built
        foreign, mounts = foreign_interpreter()
        image_arguments, image_mounts = arguments(foreign), (*mounts, inside)
    return BoxPlace(
        arguments=arguments((program,)),
        mounts=(*(Mount(need, need) for need in needs), inside),
        image_arguments=image_arguments,
        image_mounts=image_mounts,
        volumes=str(places.volumes),
        kept=str(_kept(places)),
        door=str(places.door),
        url=f"http://127.0.0.1:{DOOR_PORT}",
    )


def boxes_of(places: Places, launch: Launch) -> Boxes:
    """Tiers are tried when the first app needs one: a Bastide without apps pays nothing for them."""

    def tiers() -> Mapping[Tier, Isolation]:
        from bastide.wiring.isolation import isolations

        return isolations(places, "apps")[0]

    def exits() -> Exits:
        from bastide.egress.exits import Exits as Proxies
        from bastide.egress.sets import sets

        # Bastide itself is reached by the door: no proxy leads there.
        return Proxies(places.egress / "apps", sets(launch.egress_sets), None)

    return Boxes(tiers, (f"{DOOR}/gateway", DOOR_PORT), exits, str(_kept(places)))


def _kept(places: Places) -> Path:
    """What is kept of sleeping apps' processes."""
    return places.isolation / "apps" / "kept"
