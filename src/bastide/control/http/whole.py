"""The ledger, weights, backups and metrics: what is of the location as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from starlette.background import BackgroundTask

from bastide.control.backup import write_backup
from bastide.control.http.caller import Admin, Caller, ControlState
from bastide.control.metrics import exposition
from bastide.control.view import moment, usage_view
from bastide.domain.errors import BastideError, Conflict, Forbidden, InvalidRequest
from bastide.domain.ledger import Tokens
from bastide.domain.spec import ModelSource
from bastide.domain.units import parse_duration_s
from bastide.ports.store import UsageFilter

router = APIRouter(prefix="/api/v1", tags=["usage, weights and backups"])
bare = APIRouter(tags=["metrics"])


class PullBody(BaseModel, extra="forbid"):
    url: str
    sha256: str | None = None


@router.get("/usage")
async def usage(
    control: ControlState,
    grant: Caller,
    project: str | None = None,
    service: str | None = None,
    key: str | None = None,
    last: str | None = None,
    all_projects: bool = False,
) -> dict[str, Any]:
    """The ledger, summed by project, service, key, day and account. `last`: a time such as 24h.

    An admin sees everything, a key that can deploy its project, any other key itself. `total` is what users are
    billed for; `system` is what Bastide used itself; the two together are `engines`, the engines' own count, once
    every engine that is awake has been idle for a moment.
    """
    if project is not None and project != grant.project and not grant.admin:
        raise Forbidden(f"this key belongs to project {grant.project!r}")
    if not grant.admin and not grant.deploys:
        key = grant.key_id
    where_project = None if grant.admin and (all_projects or project is None) else (project or grant.project)
    since_s = None
    if last is not None:
        try:
            since_s = control.now_s() - parse_duration_s(last)
        except ValueError as error:
            raise InvalidRequest(str(error), param="last") from None
    with contextlib.suppress(BastideError):
        await control.node.call("count", {})
    await asyncio.to_thread(control.ledger.fold)
    where = UsageFilter(where_project, service, key, since_s)
    rows = await asyncio.to_thread(control.store.usage, where)
    times = await asyncio.to_thread(control.store.instance_time, where) if key is None else ()
    engines = await asyncio.to_thread(_engines, control, where) if key is None and since_s is None else None
    return usage_view(rows, times, engines)


def _engines(control: ControlState, where: UsageFilter) -> Tokens:
    return control.store.all_engine_tokens(where.project, where.service)


@router.get("/models")
async def models(control: ControlState, _: Admin) -> dict[str, Any]:
    """Weights that are on this node."""
    used: dict[str, list[str]] = {}
    for service in control.loop.services.values():
        if service.spec.model is not None:
            used.setdefault(service.spec.model.url, []).append(f"{service.spec.project}/{service.spec.name}")
    return {
        "models": [
            {
                "url": kept.url,
                "sha256": kept.sha256,
                "weights_bytes": kept.weights_bytes,
                "fetched": moment(kept.fetched_at_s),
                "used_by": used.get(kept.url, []),
            }
            for kept in await asyncio.to_thread(control.weights.kept)
        ]
    }


@router.post("/models/pull")
async def pull(body: PullBody, control: ControlState, _: Admin) -> StreamingResponse:
    """Fetch weights before they are needed. Lines of JSON with the progress; the last has `done` or `error`."""
    wrong = await asyncio.to_thread(control.weights.inspect, ModelSource(body.url, body.sha256))
    if wrong is not None:
        raise InvalidRequest(wrong, param="url")
    return StreamingResponse(_pull(control, ModelSource(body.url, body.sha256)), media_type="application/x-ndjson")


async def _pull(control: ControlState, source: ModelSource) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def tell(done_bytes: int, total_bytes: int | None) -> None:
        loop.call_soon_threadsafe(lines.put_nowait, {"done_bytes": done_bytes, "total_bytes": total_bytes})

    fetching = asyncio.create_task(asyncio.to_thread(control.weights.fetch, source, 2**62, tell))
    while not fetching.done() or not lines.empty():
        with contextlib.suppress(TimeoutError):
            line = await asyncio.wait_for(lines.get(), 0.1)
            while not lines.empty():
                line = lines.get_nowait()
            yield json.dumps(line).encode() + b"\n"
    try:
        weights = fetching.result()
    except BastideError as error:
        yield json.dumps(error.wire()).encode() + b"\n"
    else:
        done = {"done": True, "sha256": weights.sha256, "weights_bytes": weights.weights_bytes}
        yield json.dumps(done).encode() + b"\n"


@router.delete("/models")
async def remove_model(url: str, control: ControlState, _: Admin) -> dict[str, Any]:
    """Forget weights. Refused while a service is declared with them."""
    users = [
        s.spec.name for s in control.loop.services.values() if s.spec.model is not None and s.spec.model.url == url
    ]
    if users:
        raise Conflict(f"{url} is used by {', '.join(users)}; remove them first")
    given_back = await asyncio.to_thread(control.weights.remove, url)
    control.loop.forget_weights(url)
    return {"url": url, "gave_back_bytes": given_back}


@router.get("/backup")
async def backup(control: ControlState, _: Admin) -> FileResponse:
    """Everything but weights, as one tar file. It holds the key of the secrets: keep it as you keep a key."""
    await asyncio.to_thread(control.ledger.fold)
    descriptor, path = tempfile.mkstemp(suffix=".tar", dir=control.settings.data_directory)
    os.close(descriptor)
    try:
        await asyncio.to_thread(write_backup, control.store, control.settings.data_directory, path)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    remove = BackgroundTask(lambda: Path(path).unlink(missing_ok=True))
    return FileResponse(path, media_type="application/x-tar", filename="bastide-backup.tar", background=remove)


@bare.get("/metrics", response_class=PlainTextResponse)
async def metrics(control: ControlState, key: Caller) -> PlainTextResponse:
    """Prometheus' text format: of every project for an admin's key, else of the key's own."""
    text = exposition(control, None if key.admin else key.project)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")
