"""Apps: a build in a box. Not an engine that serves tokens, but started, asked and put to sleep by the same rules."""

from __future__ import annotations

import hashlib

from bastide.domain.apps import PORT, AppSpec, Build
from bastide.domain.instances import Assignment, LaunchSpec, Owned, Serving, WeightFile
from bastide.domain.isolation import Box, Limits, Mount, Scratch, Tier
from bastide.domain.spec import ServiceSpec
from bastide.engines.port import BoxPlace, Place

NAME = "app"
FIRST_BYTES = 64 * 2**20  # what an app is thought to hold until it was measured
CONFIG_BYTES = 2**20
WRITES_BYTES = 64 * 2**20  # of each directory that an image expects to write to
PATH = "/usr/local/bin:/usr/bin:/bin"
HOME = "/home/user"
VOLUME_SUFFIX = ".ext4"
DIRECTORY = "/app"
DOOR = "/run/bastide/door"  # where a box sees the way to the gateway
DOOR_PORT = 8787  # where the agent inside opens it to programs
SOCKETS = ("agent", "app")


class App:
    """See engines/port.py."""

    name = NAME

    def refuses(self, spec: ServiceSpec, weights: WeightFile | None) -> str | None:
        return None if spec.app is not None else "this is no app"

    def estimate_bytes(self, spec: ServiceSpec, weights: WeightFile | None) -> int:
        return min(FIRST_BYTES, spec.resources.memory_bytes or FIRST_BYTES)

    def launch(self, assignment: Assignment, place: Place) -> LaunchSpec:
        spec, build = assignment.spec, assignment.build
        if spec.app is None or build is None or place.boxes is None:
            raise ValueError("an app needs its build, and a node that has boxes")
        app, boxes = spec.app, place.boxes
        name = box_name(assignment.instance)
        declared = sorted(app.volumes, key=lambda volume: volume.path)  # one that lies in another is laid after it
        volumes = tuple(
            Owned(f"{boxes.volumes}/{spec.project}/{spec.name}/{volume.name}", volume.bytes_max) for volume in declared
        )
        mounts = (
            *(boxes.image_mounts if build.root else boxes.mounts),
            *(() if build.root else (Mount(build.source, DIRECTORY),)),
            *(Mount(source, target) for source, target in build.mounts),
            *(_volume(owned, volume.path) for owned, volume in zip(volumes, declared, strict=True)),
            *((Mount(boxes.door, DOOR),) if boxes.door else ()),
        )
        folders = dict.fromkeys(file.path.rpartition("/")[0] for file in app.config_files)
        scratch = tuple(Scratch(folder, CONFIG_BYTES) for folder in folders if folder not in ("/tmp", HOME))
        if app.disk_bytes is not None:
            scratch += (Scratch("/tmp", app.disk_bytes // 2), Scratch(HOME, app.disk_bytes // 2))
        scratch += tuple(
            Scratch(path, WRITES_BYTES)
            for path in build.writes
            if path not in {shown.target for shown in (*mounts, *scratch)}
        )
        path = ":".join((*build.path, PATH))
        port = app.port if build.port is None or app.port != PORT else build.port
        box = Box(
            name=name,
            tier=app.isolation,
            arguments=boxes.image_arguments if build.root else boxes.arguments,
            environment=(("PATH", path), ("HOME", HOME), ("LANG", "C.UTF-8")),
            root=build.root,
            mounts=mounts,
            scratch=scratch,
            limits=Limits(spec.resources.memory_bytes, spec.resources.cpu or None),
            listens=SOCKETS,
            hostname=spec.name[:63],
            owner=f"{spec.project}.{spec.name}" if volumes else "",
        )
        return LaunchSpec(
            instance=assignment.instance,
            engine=NAME,
            socket="",
            secret="",
            log=f"{place.logs_directory}/{assignment.instance}.log",
            state_directory=f"{boxes.kept}/{name}" if boxes.kept and _can_be_kept(app) else "",
            lease_s=place.lease_s,
            start_s_max=app.health.start_s_max,
            box=box,
            serving=Serving(
                argv=build.argv,
                directory=build.directory,
                port=port,
                environment=environment(assignment, build, boxes, port),
                files=app.config_files,
                health=app.health,
            ),
            owned=volumes,
            egress=app.egress,
            egress_tier=app.egress_tier,
        )


def environment(assignment: Assignment, build: Build, boxes: BoxPlace, port: int) -> tuple[tuple[str, str], ...]:
    """All but its secrets and its key, which are given at the start."""
    spec = assignment.spec
    assert spec.app is not None
    own: tuple[tuple[str, str], ...] = (
        ("PORT", str(port)),
        ("BASTIDE_PROJECT", spec.project),
        ("BASTIDE_SERVICE", spec.name),
    )
    if boxes.url:
        own += (("BASTIDE_URL", boxes.url), ("OPENAI_BASE_URL", f"{boxes.url}/v1"))
    return (*build.environment, *spec.app.environment, *own)


def _can_be_kept(app: AppSpec) -> bool:
    """Where its tier can keep processes it may: but none that use sockets of the host's, as those behind a wall do."""
    return app.isolation in (Tier.NAMESPACE, Tier.GVISOR) and (app.egress_tier == "proxy" or not app.egress)


def _volume(owned: Owned, target: str) -> Mount:
    """One with a size is a file system in a file beside where the directory would be."""
    if owned.bytes_max is None:
        return Mount(owned.path, target, writable=True)
    return Mount(f"{owned.path}{VOLUME_SUFFIX}", target, writable=True, image=True)


def box_name(instance: str) -> str:
    """A name for a box, short enough for a socket's path."""
    return f"app-{hashlib.sha256(instance.encode()).hexdigest()[:20]}"
