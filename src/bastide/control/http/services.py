"""Services: deploy, list, scale, sleep, wake, why, logs, remove, and progress of all that."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from bastide.control.apps import problems_of
from bastide.control.http.caller import Admin, Caller, ControlState, Project
from bastide.control.http.progress import progress_lines
from bastide.control.specfile import parse, parse_replicas
from bastide.control.state import Control
from bastide.control.view import decision_view, difference, services_view
from bastide.domain.errors import (
    BastideError,
    Conflict,
    Forbidden,
    InvalidRequest,
    InvalidSpec,
    NotFound,
    Problem,
    Unavailable,
)
from bastide.domain.identity import instance_id
from bastide.domain.instances import InstanceReport
from bastide.domain.lifecycle import Phase, Rung
from bastide.domain.plan import DesiredService
from bastide.ports.link import LinkLost

REFRESH_S_MAX = 0.5
REFRESHED_MAX = 200

router = APIRouter(prefix="/api/v1", tags=["services"])


class DeployBody(BaseModel, extra="forbid"):
    """A spec file, as text. With `dry_run` nothing changes; the answer says what would."""

    text: str = Field(description="The YAML of the spec file")
    dry_run: bool = False


class ScaleBody(BaseModel, extra="forbid"):
    replicas: str = Field(description="N or LEAST..MOST, as in the spec", examples=["0..4"])


class SleepBody(BaseModel, extra="forbid"):
    rung: Rung | None = Field(default=None, description="frozen, light, deep; left out: the deepest that holds")


@router.post("/deploy")
async def deploy(body: DeployBody, control: ControlState, project: Project) -> dict[str, Any]:
    """Declare services. Valid as a whole or refused as a whole, with every problem and its line."""
    file = parse(body.text, None if project == "default" else project)
    if file.project != project:
        raise Forbidden(
            f"the file declares project {file.project!r}, but you act in {project!r}; use `--project {file.project}`"
        )
    problems = []
    for spec in file.services:
        line = file.lines[spec.name]
        if spec.app is not None:
            problems.extend(await asyncio.to_thread(problems_of, control, spec, line))
        elif spec.engine not in ("auto", *(name for name in control.engines if name != "app")):
            known = ", ".join(("auto", *(name for name in control.engines if name != "app")))
            problems.append(
                Problem(line, f"{spec.name}.engine", f"{spec.engine} can't run on this machine; {known} can")
            )
        elif spec.model is not None:
            wrong = await asyncio.to_thread(control.weights.inspect, spec.model, control.settings.budget_bytes)
            weights = control.weights.resolve(spec.model) if wrong is None else None
            engine = control.engines["llama.cpp" if spec.engine == "auto" else spec.engine]
            wrong = wrong or (engine.refuses(spec, weights) if weights is not None else None)
            if wrong is not None:
                problems.append(Problem(line, f"{spec.name}.model", wrong))
        elif spec.endpoint is not None and spec.endpoint.key_secret:
            names = [name for name, _ in control.store.secrets(project)]
            if spec.endpoint.key_secret not in names:
                problems.append(
                    Problem(
                        line,
                        f"{spec.name}.endpoint.key",
                        f"there is no secret {spec.endpoint.key_secret!r} in project {project!r}; "
                        f"set it first with `bastide secrets set {spec.endpoint.key_secret}`",
                    )
                )
    if problems:
        raise InvalidSpec(tuple(problems))
    changes: list[dict[str, Any]] = []
    for spec in file.services:
        old = control.loop.services.get((project, spec.name))
        live = old if old is not None and not old.removed else None
        fields = difference(live.spec if live is not None else None, spec)
        change = "created" if live is None else "changed" if fields else "unchanged"
        if live is not None and live.failed_generation == live.generation:
            change = "tried again" if not fields else change
        changes.append({"name": spec.name, "change": change, "fields": fields if live is not None else []})
    if not body.dry_run:
        written = control.loop.declare(file.services)
        for entry, service in zip(changes, written, strict=True):
            entry["generation"] = service.generation
    return {"project": project, "dry_run": body.dry_run, "services": changes}


@router.get("/services")
async def services(
    control: ControlState, project: Project, grant: Caller, all_projects: bool = False
) -> dict[str, Any]:
    """What `bastide ps` shows. `all_projects` is for admins."""
    if all_projects and not grant.admin:
        raise Forbidden("only an admin key may see every project's services")
    await _refresh(control)
    found = [s for s in control.loop.services.values() if all_projects or s.spec.project == project]
    return {
        "services": services_view(found, control.loop),
        "node": {
            "name": control.settings.node,
            "here": control.loop.synced,
            "memory_budget_bytes": control.settings.budget_bytes,
            "memory_held_bytes": sum(report.memory_bytes for report in control.loop.reports.values()),
        },
        "refused": control.loop.refused,
    }


@router.get("/services/{name}")
async def service(name: str, control: ControlState, project: Project) -> dict[str, Any]:
    """One service."""
    await _refresh(control)
    return services_view([one(control, project, name)], control.loop)[0]


@router.delete("/services/{name}")
async def remove(name: str, control: ControlState, project: Project) -> dict[str, Any]:
    """Drain it, end it, forget it; its usage stays in the ledger."""
    one(control, project, name)
    control.loop.remove(project, name)
    return {"name": name, "removed": True}


@router.post("/services/{name}/scale")
async def scale(name: str, body: ScaleBody, control: ControlState, project: Project) -> dict[str, Any]:
    """Change the number of replicas; running instances stay."""
    found = one(control, project, name)
    if found.spec.endpoint is not None:
        raise Conflict(f"{name} is an outside endpoint; it has no replicas")
    try:
        replicas = parse_replicas(body.replicas)
    except ValueError as error:
        raise InvalidRequest(str(error), param="replicas") from None
    wanted = replace(found.spec, replicas=replicas)
    if wanted.app is not None:
        for problem in problems_of(control, wanted, 0):
            if problem.where == f"{name}.replicas":
                raise InvalidRequest(problem.message, param="replicas")
    (written,) = control.loop.declare((wanted,))
    return {"name": name, "generation": written.generation, "replicas": f"{replicas.least}..{replicas.most}"}


@router.post("/services/{name}/sleep")
async def sleep(name: str, body: SleepBody, control: ControlState, project: Project) -> dict[str, Any]:
    """Put every awake instance to sleep now. A busy one is never put to sleep."""
    rung = body.rung or Rung.DEEP
    if rung not in (Rung.FROZEN, Rung.LIGHT, Rung.DEEP):
        raise InvalidRequest(f"an instance can't be put to {rung.value}; use frozen, light or deep", param="rung")
    found = one(control, project, name)
    # The node is asked, for what it last reported is a moment old: a request may have woken one since.
    told = (await ask_node(control, "inventory", {}))["reports"]
    phases = {report["instance"]: Phase(report["phase"]) for report in told}
    done = []
    # The node knows too who is kept awake, but a rollout that has just ended may not have told it yet.
    least = (found.serving_spec or found.spec).replicas.least
    for report in instances_of(control, found):
        if int(report.instance.rpartition(".")[2]) < least:
            continue
        if phases.get(report.instance) in (Phase.AWAKE, Phase.FROZEN, Phase.LIGHT):
            with contextlib.suppress(NotFound):  # it has ended since, as one of an older generation does
                answer = await ask_node(control, "sleep", {"instance": report.instance, "rung": rung.value})
                done.append({"id": report.instance, **answer})
    if not done and least:
        raise Conflict(
            f"the least replicas of {name} ({least}) stay awake and no other is; `bastide scale {name} 0..N` first"
        )
    if not done:
        raise Conflict(f"no instance of {name} is awake; `bastide ps` shows what they are doing")
    return {"name": name, "instances": done}


@router.post("/services/{name}/wake")
async def wake(name: str, control: ControlState, project: Project) -> dict[str, Any]:
    """Wake its first instance and wait until it is awake."""
    found = one(control, project, name)
    instances = instances_of(control, found)
    if not instances:
        raise Conflict(f"{name} has no instance that could wake; `bastide ps` says why")
    answer = await ask_node(control, "wake", {"instance": instances[0].instance})
    return {"name": name, "id": instances[0].instance, **answer}


@router.get("/services/{name}/why")
async def why(
    name: str, control: ControlState, project: Project, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> dict[str, Any]:
    """Every decision about it, oldest first, with its reason."""
    found = one(control, project, name)
    await asyncio.to_thread(control.loop.flush_decisions)
    decisions = await asyncio.to_thread(control.store.decisions, project, name, limit)
    view = services_view([found], control.loop)[0]
    return {
        "name": name,
        "phase": view["phase"],
        "reason": view["reason"],
        "decisions": [decision_view(decision) for decision in sorted(decisions, key=lambda d: d.at_s)],
    }


@router.get("/services/{name}/logs")
async def logs(name: str, control: ControlState, project: Project, after: str = "") -> dict[str, Any]:
    """What its instances wrote. Ask again with `after` set to the answer's `next` for what came since."""
    found = one(control, project, name)
    try:
        places: dict[str, int] = json.loads(base64.urlsafe_b64decode(after)) if after else {}
    except ValueError:
        raise InvalidRequest("`after` must be the `next` of an earlier answer", param="after") from None
    parts = []
    names = [report.instance for report in instances_of(control, found)]
    app = (found.serving_spec or found.spec).app
    if app is not None and app.job is not None:  # it has a log, but no instance
        names = [instance_id(project, name, found.serving_run or found.run_generation, 0)]
    for instance in names:
        with contextlib.suppress(NotFound):
            part = await ask_node(control, "log", {"instance": instance, "after": places.get(instance, -16384)})
            places[instance] = part["next"]
            if part["text"]:
                parts.append({"id": instance, "text": part["text"]})
    return {"name": name, "parts": parts, "next": base64.urlsafe_b64encode(json.dumps(places).encode()).decode()}


@router.get("/progress")
async def progress(
    control: ControlState,
    project: Project,
    service: Annotated[list[str], Query()],
) -> StreamingResponse:
    """Lines of JSON while these services are deployed, one at each change; ends when none of them is on its way. `service` is
    NAME, or NAME@GENERATION: its line then has `failed` where another generation takes the place of this one."""
    return _progress(control, project, service)


class ProgressBody(BaseModel, extra="forbid"):
    """Whose progress: NAME or NAME@GENERATION each."""

    services: list[str] = Field(min_length=1)


@router.post("/progress")
async def progress_of_many(control: ControlState, project: Project, body: ProgressBody) -> StreamingResponse:
    """As with GET, for more services than an address has room for."""
    return _progress(control, project, body.services)


def _progress(control: Control, project: str, services: list[str]) -> StreamingResponse:
    wanted = dict(_name_and_generation(text) for text in services)
    for name, generation in wanted.items():
        if not generation:
            one(control, project, name)
    return StreamingResponse(progress_lines(control, project, wanted), media_type="application/x-ndjson")


def _name_and_generation(text: str) -> tuple[str, int]:
    name, _, generation = text.partition("@")
    if generation and not re.fullmatch(r"[0-9]{1,15}", generation):
        raise InvalidRequest(f"{text[:100]!r} is neither NAME nor NAME@GENERATION", param="service")
    return name, int(generation or 0)


@router.post("/confirm")
async def confirm(control: ControlState, _: Admin) -> dict[str, Any]:
    """Say yes to a plan that was refused because it would end many instances at once."""
    refused = control.loop.refused
    control.loop.confirmed = True
    control.loop.hint()
    return {"confirmed": refused}


@router.get("/key")
async def own_key(grant: Caller) -> dict[str, Any]:
    """What the key that asks may do."""
    return {
        "id": grant.key_id,
        "project": grant.project,
        "admin": grant.admin,
        "can_deploy": grant.admin or grant.deploys,
    }


def one(control: Control, project: str, name: str) -> DesiredService:
    found = control.loop.services.get((project, name))
    if found is None:
        names = sorted(n for p, n in control.loop.services if p == project)
        raise NotFound(
            f"project {project!r} has no service {name!r}; "
            + (f"it has {', '.join(names[:20])}" if names else "it has none")
        )
    return found


def instances_of(control: Control, service: DesiredService) -> list[InstanceReport]:
    spec = service.spec
    mine = [
        report
        for report in control.loop.reports.values()
        if (report.project, report.service) == (spec.project, spec.name)
    ]
    return sorted(mine, key=lambda report: (report.generation != service.serving_run, report.instance))


async def _refresh(control: Control) -> None:
    """Ask the node itself: its reports are a few milliseconds old. Of very many, only those last seen on the move."""
    named = list(control.loop.reports)
    if len(named) > REFRESHED_MAX:
        named = [r.instance for r in control.loop.reports.values() if r.phase.rung is None][:REFRESHED_MAX]
    if named:
        with contextlib.suppress(LinkLost, BastideError, TimeoutError):
            async with asyncio.timeout(REFRESH_S_MAX):
                told = await control.node.call("inventory", {"instances": named})
                control.loop.reported(told["reports"])


async def ask_node(control: Control, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        return await control.node.call(verb, body)
    except LinkLost as error:
        raise Unavailable(f"the node can't be asked now: {error}", retry_after_s=2.0) from None
