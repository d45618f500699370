"""Create, list, look at, change and end sandboxes; snapshots and templates."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Query
from pydantic import Field

from bastide.domain.errors import InvalidRequest
from bastide.domain.isolation import Limits, Tier
from bastide.domain.sandboxes import DISK_BYTES, TIMEOUT_S, EgressRules, Sandbox, SandboxSpec, Snapshot
from bastide.domain.units import parse_bytes
from bastide.sandboxes.http.bodies import Body
from bastide.sandboxes.http.caller import TheCaller, TheHouse, TheLive
from bastide.sandboxes.tokens import TOKEN_S_MAX

router = APIRouter(prefix="/api/v1", tags=["sandboxes"])
DISK_BYTES_MAX = 64 * 2**30
CPU_MIN = 0.01  # the least share of a core that Linux can be told
METADATA_MAX, METADATA_NAME_MAX, METADATA_VALUE_MAX = 64, 256, 4096
# Where they can be enforced and nobody asked for others: a sandbox nobody thought about must not fill the machine.
PROCESSES = 512
MEMORY_BYTES = 512 * 2**20


class CreateBody(Body):
    """What is wanted. Everything has a default."""

    template: str = Field(default="python", description="base, python, node, one of your own, or snapshot:ID")
    tier: Tier | None = Field(
        default=None, description="gvisor (default), namespace; never lowered without being asked"
    )
    timeout: float = Field(default=TIMEOUT_S, description="Seconds until it ends by itself")
    env: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, str] = Field(default_factory=dict)
    egress: list[str] = Field(
        default_factory=list, description="Names, CIDRs or sets that may be reached; nothing else is"
    )
    egress_tier: Literal["proxy", "packet"] = Field(
        default="proxy", description="proxy: for HTTP and CONNECT clients; packet (root): for any TCP client"
    )
    memory: str | None = Field(
        default=None,
        description="A size; what it may hold in memory, its files included (512MiB where that can be enforced)",
        examples=["512MiB"],
    )
    cpu: float | None = Field(default=None, ge=CPU_MIN, le=1024, description="Cores, from 0.01")
    processes: int | None = Field(default=None, ge=8, le=100_000)
    disk: str | None = Field(
        default=None, description="A size; of its home directory, held in memory", examples=["1GiB"]
    )


class TimeoutBody(Body):
    timeout: float


class EgressBody(Body):
    allow: list[str]


class SnapshotBody(Body):
    name: str = Field(default="", max_length=200)


class ForkBody(Body):
    count: int = Field(default=1, ge=1, le=20)


class UrlBody(Body):
    port: int = Field(ge=1, le=65535)
    expires_in: float = Field(default=3600.0, gt=0, le=TOKEN_S_MAX, description="Seconds")


def sandbox_view(sandbox: Sandbox) -> dict[str, Any]:
    """As the API shows it. `limits`: a limit nobody asked for is `unlimited`."""
    limits = sandbox.spec.limits
    return {
        "id": sandbox.sandbox,
        "project": sandbox.project,
        "state": sandbox.phase.value,
        "template": sandbox.spec.template,
        "tier": sandbox.spec.tier.value,
        "metadata": dict(sandbox.spec.metadata),
        "egress": list(sandbox.spec.egress.allow),
        "egress_tier": sandbox.spec.egress.tier,
        "limits": {
            "memory_bytes": limits.memory_bytes or "unlimited",
            "cpu": limits.cpu or "unlimited",
            "processes": limits.processes or "unlimited",
            "disk_bytes": sandbox.spec.disk_bytes,
        },
        "created_s": sandbox.created_s,
        "expires_s": sandbox.expires_s,
    }


def snapshot_view(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.snapshot,
        "name": snapshot.name,
        "project": snapshot.project,
        "template": snapshot.spec.template,
        "created_s": snapshot.created_s,
        "size_bytes": snapshot.size_bytes,
        "sha256": snapshot.sha256,
    }


def _size(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}", param=name) from None


def _check_metadata(metadata: dict[str, str]) -> None:
    """It is written down with the sandbox and shown with every list: bounded, like everything kept for others."""
    longest = (max(map(len, metadata), default=0), max(map(len, metadata.values()), default=0))
    if len(metadata) > METADATA_MAX or longest[0] > METADATA_NAME_MAX or longest[1] > METADATA_VALUE_MAX:
        raise InvalidRequest(
            f"metadata holds at most {METADATA_MAX} entries, of names up to {METADATA_NAME_MAX} and values up to "
            f"{METADATA_VALUE_MAX} characters; write what is longer to a file in the sandbox",
            param="metadata",
        )


@router.post("/sandboxes", status_code=201)
async def create(body: CreateBody, house: TheHouse, asked: TheCaller) -> dict[str, Any]:
    """A new sandbox, ready to be used when this answers."""
    if any("=" in name or "\0" in name + value or not name for name, value in body.env.items()):
        raise InvalidRequest("a name in env may hold no '=' and nothing a zero byte", param="env")
    _check_metadata(body.metadata)
    disk = _size(body.disk, "disk")
    if disk is not None and not 2**20 <= disk <= DISK_BYTES_MAX:
        raise InvalidRequest("disk must be 1MiB to 64GiB", param="disk")
    memory = _size(body.memory, "memory")
    if memory is not None and memory < 64 * 2**20:
        raise InvalidRequest("memory must be at least 64MiB: the sandbox's own agent needs some", param="memory")
    enforces, processes = house.settings.enforces, body.processes
    if processes is None and "processes" in enforces:
        processes = PROCESSES
    if memory is None and "memory" in enforces:
        memory = MEMORY_BYTES
    spec = SandboxSpec(
        template=body.template,
        tier=body.tier or house.settings.default_tier,
        timeout_s=body.timeout,
        metadata=tuple(sorted(body.metadata.items())),
        egress=EgressRules(tuple(body.egress), body.egress_tier),
        limits=Limits(memory, body.cpu, processes),
        disk_bytes=DISK_BYTES if disk is None else disk,
    )
    return sandbox_view(await house.create(asked.project, asked.key_id, spec, body.env))


@router.get("/sandboxes")
async def sandboxes(
    house: TheHouse,
    asked: TheCaller,
    metadata: Annotated[list[str] | None, Query(description="NAME=VALUE; all must fit")] = None,
    all_projects: bool = False,
) -> dict[str, Any]:
    """Those that live."""
    wanted = dict(pair.partition("=")[::2] for pair in metadata or ())
    found = [
        sandbox_view(live.sandbox)
        for live in house.live.values()
        if (live.sandbox.project == asked.project or (all_projects and asked.admin))
        and wanted.items() <= dict(live.sandbox.spec.metadata).items()
    ]
    return {"sandboxes": sorted(found, key=lambda view: view["created_s"])}


@router.get("/sandboxes/{sandbox}")
async def sandbox(live: TheLive) -> dict[str, Any]:
    return sandbox_view(live.sandbox)


@router.delete("/sandboxes/{sandbox}")
async def kill(live: TheLive, house: TheHouse) -> dict[str, Any]:
    """End it now, with everything in it."""
    await house.kill(live)
    return {"id": live.sandbox.sandbox, "state": "ended"}


@router.put("/sandboxes/{sandbox}/timeout")
async def set_timeout(body: TimeoutBody, live: TheLive, house: TheHouse) -> dict[str, Any]:
    """It ends that many seconds from now."""
    return sandbox_view(await house.set_timeout(live, body.timeout))


@router.put("/sandboxes/{sandbox}/egress")
async def set_egress(body: EgressBody, live: TheLive, house: TheHouse) -> dict[str, Any]:
    """What may be reached from now on; open connections that are no longer allowed end at once."""
    return sandbox_view(await house.set_egress(live, EgressRules(tuple(body.allow), live.sandbox.spec.egress.tier)))


@router.get("/sandboxes/{sandbox}/metrics")
async def metrics(live: TheLive, house: TheHouse) -> dict[str, Any]:
    """What it uses now. Looking does not wake it."""
    return {"id": live.sandbox.sandbox, "state": live.sandbox.phase.value, **await house.metrics(live)}


@router.post("/sandboxes/{sandbox}/rest")
async def rest(live: TheLive, house: TheHouse) -> dict[str, Any]:
    """Stop it and page its memory out, as it is when idle for a while. Any use wakes it."""
    return sandbox_view(await house.rest(live))


@router.post("/sandboxes/{sandbox}/pause")
async def pause(live: TheLive, house: TheHouse) -> dict[str, Any]:
    """Save it with its processes and end them. Any use brings it back."""
    return sandbox_view(await house.pause(live))


@router.post("/sandboxes/{sandbox}/resume")
async def resume(live: TheLive, house: TheHouse) -> dict[str, Any]:
    async with house.using(live):
        return sandbox_view(live.sandbox)


@router.post("/sandboxes/{sandbox}/snapshot", status_code=201)
async def snapshot(body: SnapshotBody, live: TheLive, house: TheHouse) -> dict[str, Any]:
    """Save it while it runs on; make others from it with template `snapshot:ID`."""
    return snapshot_view(await house.snapshot(live, body.name))


@router.post("/sandboxes/{sandbox}/fork", status_code=201)
async def fork(body: ForkBody, live: TheLive, house: TheHouse, asked: TheCaller) -> dict[str, Any]:
    """That many more of it, as it is now, processes and all."""
    made = await house.fork(live, body.count, asked.key_id)
    return {"sandboxes": [sandbox_view(one) for one in made]}


@router.post("/sandboxes/{sandbox}/url")
async def url(body: UrlBody, live: TheLive, house: TheHouse) -> dict[str, Any]:
    """Two addresses that lead to a port inside, for whoever has one, until they expire. `own_origin_url` is a host name of its own:
    what its pages keep in a browser, no other page can read."""
    token, expires_s = house.tokens.sign(live.sandbox.sandbox, body.port, body.expires_in)
    parts = urlsplit(house.settings.url)
    own = f"{parts.scheme}://s-{token}.localhost" + (f":{parts.port}" if parts.port else "") + "/"
    return {"url": f"{house.settings.url}/s/{token}/", "own_origin_url": own, "expires_s": expires_s}


@router.get("/snapshots")
async def snapshots(house: TheHouse, asked: TheCaller) -> dict[str, Any]:
    return {"snapshots": [snapshot_view(one) for one in house.snapshots.all(asked.project)]}


@router.delete("/snapshots/{snapshot}")
async def remove_snapshot(snapshot: str, house: TheHouse, asked: TheCaller) -> dict[str, Any]:
    found = house.snapshots.of(None if asked.admin else asked.project, snapshot)
    house.snapshots.remove(found.snapshot)
    return {"id": found.snapshot, "removed": True}


@router.get("/templates")
async def templates(house: TheHouse, asked: TheCaller) -> dict[str, Any]:
    """What sandboxes can be made from, and which tiers hold here."""
    tiers = [replace(report, limits=frozenset()) for report in house.tiers]
    return {
        "templates": [{"name": one.name, "meaning": one.meaning} for one in house.templates.all()],
        "tiers": [{"tier": r.tier.value, "holds": r.holds, "detail": r.detail, "version": r.version} for r in tiers],
        "default_tier": house.settings.default_tier.value,
    }
