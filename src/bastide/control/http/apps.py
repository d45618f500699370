"""Apps: sources taken in, builds, going back to what served before, running something inside, copying files."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from bastide.adapters.runtime.boxline import BoxLine, opened
from bastide.control import apps
from bastide.control.http.caller import Admin, ControlState, Project
from bastide.control.http.services import ask_node, instances_of, one
from bastide.control.state import Control
from bastide.control.view import moment
from bastide.domain.errors import BastideError, Conflict, InvalidRequest, NotFound, TooLarge, Unavailable, Unsupported
from bastide.domain.sources import SOURCE_BYTES_MAX, is_digest
from bastide.domain.units import format_bytes
from bastide.inside import wire
from bastide.ports.builds import Builds
from bastide.ports.link import LinkLost

router = APIRouter(prefix="/api/v1", tags=["apps"])
TAR_BYTES_MAX = SOURCE_BYTES_MAX + 64 * 2**20  # with heads and padding


class ExecBody(BaseModel, extra="forbid"):
    """A command to run inside: `argv`, or `command` for the shell."""

    argv: list[str] = Field(default=[], max_length=1000)
    command: str = Field(default="", max_length=64 * 1024)
    cwd: str = "/app"
    timeout_s: float | None = Field(default=None, gt=0, le=24 * 3600)


class CollectBody(BaseModel, extra="forbid"):
    kept_s: float = Field(default=apps.KEPT_S, ge=0, description="What was used within this time stays anyway")


def _builds(control: Control) -> Builds:
    if control.loop.builds is None:
        raise Unsupported("apps can't be run on this machine; `bastide doctor` says why")
    return control.loop.builds


@router.get("/sources/{digest}")
async def has_source(digest: str, control: ControlState, project: Project) -> dict[str, Any]:
    """Whether a directory with this content is here already."""
    return {"digest": digest, "here": _builds(control).has_source(digest)}


@router.put("/sources/{digest}")
async def put_source(digest: str, request: Request, control: ControlState, project: Project) -> dict[str, Any]:
    """Upload a directory as a tar, streamed. It is kept by its content: sent twice, it is there once."""
    builds = _builds(control)
    if not is_digest(digest):
        raise InvalidRequest("the digest must be sha256: and 64 hexadecimal digits", param="digest")
    with tempfile.TemporaryFile(dir=control.settings.data_directory) as part:
        try:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > TAR_BYTES_MAX:
                    raise TooLarge(
                        f"the directory is over {format_bytes(SOURCE_BYTES_MAX)}; leave large files out by .bastideignore"
                    )
                await asyncio.to_thread(part.write, chunk)
            part.seek(0)
        except OSError as error:
            raise Unavailable(f"the upload can't be kept: {error.strerror or error}") from None
        taken = await asyncio.to_thread(builds.take_source, digest, part)
    return {"digest": digest, "source_bytes": taken}


@router.post("/builds/collect")
async def collect(body: CollectBody, control: ControlState, _: Admin) -> dict[str, Any]:
    """Remove sources and builds that no service needs: not what serves, not what came before it."""
    _builds(control)
    gone = await apps.collect(control, body.kept_s)
    return {"removed": gone.removed, "given_back_bytes": gone.given_back_bytes}


@router.get("/services/{name}/build")
async def build(name: str, control: ControlState, project: Project) -> dict[str, Any]:
    """What the newest build of an app said."""
    found = one(control, project, name)
    if found.spec.app is None:
        raise Conflict(f"{name} is no app")
    log = await asyncio.to_thread(_builds(control).log, found.spec.app)
    made = _builds(control).resolve(found.spec.app)
    return {
        "name": name,
        "source": found.spec.app.source,
        "reason": made.reason if made is not None else None,
        "build_bytes": made.build_bytes if made is not None else None,
        "log": log,
    }


@router.post("/services/{name}/rollback")
async def rollback(name: str, control: ControlState, project: Project) -> dict[str, Any]:
    """Go back to what served before. Where a newer generation failed or is still on its way: to what serves."""
    found = one(control, project, name)
    on_its_way = found.rolling or found.failed_generation == found.generation
    target = found.serving_spec if on_its_way else found.previous_spec
    if target is None:
        raise Conflict(f"{name} has nothing to go back to: no other generation of it has served")
    (written,) = control.loop.declare((target,))
    return {"name": name, "generation": written.generation}


@router.get("/jobs")
async def jobs(control: ControlState, project: Project, service: str | None = None) -> dict[str, Any]:
    """Jobs and their last runs, the newest last. Times in ISO 8601."""
    found = []
    for (owner, name), desired in sorted(control.loop.services.items()):
        app = (desired.serving_spec or desired.spec).app
        if owner != project or app is None or app.job is None or service not in (None, name):
            continue
        state = control.jobs.state((owner, name))
        runs = [
            {
                "run": run.number,
                "generation": run.generation,
                "cause": run.cause,
                "began": moment(run.began_s),
                "ended": moment(run.ended_s) if run.ended_s is not None else None,
                "attempts": run.attempts,
                "exit_code": run.exit_code,
                "reason": run.reason,
                "said": run.said,
            }
            for run in state.runs
        ]
        due = moment(state.due_s) if app.schedule and state.due_s is not None else None
        running = control.jobs.is_running((owner, name))
        found.append({"name": name, "schedule": app.schedule or None, "due": due, "running": running, "runs": runs})
    return {"jobs": found}


@router.post("/services/{name}/run")
async def run(name: str, control: ControlState, project: Project) -> dict[str, Any]:
    """Run a job now, beside its schedule."""
    begun = control.jobs.ask(one(control, project, name))
    return {"name": name, "run": begun.number}


@router.post("/services/{name}/exec")
async def execute(name: str, body: ExecBody, control: ControlState, project: Project) -> StreamingResponse:
    """Run a command inside the first instance, waking it. Lines of JSON: `stdout` and `stderr` (base64), at the end `exit_code`."""
    if not body.argv and not body.command:
        raise InvalidRequest("either `argv` or `command` must say what to run")
    question: dict[str, Any] = {"op": "exec", "cwd": body.cwd, "timeout_s": body.timeout_s}
    question |= {"argv": body.argv} if body.argv else {"command": body.command}
    visit = _Visit(control, project, name)
    line = await visit.ask(question)
    return StreamingResponse(_output(visit, line), media_type="application/x-ndjson")


async def _output(visit: _Visit, line: BoxLine) -> AsyncIterator[bytes]:
    names = {wire.OUTPUT: "stdout", wire.ERRORS: "stderr"}
    try:
        while True:
            kind, payload = await line.frame()
            if kind in names:
                yield json.dumps({names[kind]: base64.b64encode(payload).decode()}).encode() + b"\n"
            elif kind == wire.EXIT:
                yield payload + b"\n"
                return
            elif kind == wire.ERROR:
                yield json.dumps(line.inside_error(payload).wire()).encode() + b"\n"
                return
    except (BastideError, ValueError) as error:
        yield json.dumps(Unavailable(str(error)).wire()).encode() + b"\n"
    finally:
        await visit.end()


@router.get("/services/{name}/files")
async def download(
    name: str, control: ControlState, project: Project, path: Annotated[str, Query()]
) -> StreamingResponse:
    """A file or a tree from inside the first instance, as a tar."""
    visit = _Visit(control, project, name)
    line = await visit.ask({"op": "download", "path": path})
    try:
        await line.answer()
    except BastideError as error:
        await visit.end()
        raise NotFound(error.message) if "FileNotFound" in error.message else error from None
    return StreamingResponse(_content(visit, line), media_type="application/x-tar")


async def _content(visit: _Visit, line: BoxLine) -> AsyncIterator[bytes]:
    try:
        while True:
            kind, payload = await line.frame()
            if kind != wire.DATA:
                return
            yield payload
    finally:
        await visit.end()


@router.put("/services/{name}/files")
async def upload(
    name: str, request: Request, control: ControlState, project: Project, path: Annotated[str, Query()]
) -> dict[str, Any]:
    """A tar, laid below a directory inside the first instance. Only volumes, /tmp and the home are writable."""
    visit = _Visit(control, project, name)
    line = await visit.ask({"op": "upload", "path": path})
    try:
        async for chunk in request.stream():
            await line.send(wire.DATA, chunk)
        await line.send(wire.END)
        return await line.answer()
    finally:
        await visit.end()


class _Visit:
    """Being inside an app's first instance: it is awake and does not step down until `end`."""

    def __init__(self, control: Control, project: str, name: str) -> None:
        self._control = control
        found = one(control, project, name)
        if (found.serving_spec or found.spec).app is None:
            raise Conflict(f"{name} is no app: there is no inside to go to")
        mine = instances_of(control, found)
        if not mine:
            raise Conflict(f"{name} has no instance yet; `bastide ps` says why")
        self._instance = mine[0].instance
        self._visit = ""
        self._line: BoxLine | None = None

    async def ask(self, question: dict[str, Any]) -> BoxLine:
        answer = await ask_node(self._control, "visit", {"instance": self._instance})
        self._visit = answer["visit"]
        try:
            self._line = await opened(answer["address"], question)
            return self._line
        except OSError as error:
            await self.end()
            raise Unavailable(
                f"{self._instance} can't be entered: {error.strerror or error}", retry_after_s=1.0
            ) from None

    async def end(self) -> None:
        if self._line is not None:
            self._line.close()
        with contextlib.suppress(LinkLost, BastideError):
            await asyncio.shield(self._control.node.call("leave", {"visit": self._visit}))
