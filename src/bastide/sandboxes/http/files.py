"""Files of a sandbox: bytes and whole trees, both ways, as streams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from bastide.inside import wire
from bastide.sandboxes.house import House
from bastide.sandboxes.http.bodies import Body
from bastide.sandboxes.http.caller import TheHouse, TheLive
from bastide.sandboxes.http.frames import opened
from bastide.sandboxes.line import Line
from bastide.sandboxes.lives import Live

router = APIRouter(prefix="/api/v1/sandboxes/{sandbox}", tags=["sandboxes"])
Path = Annotated[str, Query(min_length=1, max_length=4096, description="Absolute, or below the home directory")]


class MoveBody(Body):
    path: str
    to: str


@router.get("/files")
async def read(
    path: Path, live: TheLive, house: TheHouse,
    offset: Annotated[int, Query(ge=0)] = 0,
    length: Annotated[int | None, Query(ge=0)] = None,
) -> Response:  # fmt: skip
    """The bytes of a file."""
    asked = {"op": "read", "path": path, "offset": offset, "length": length}
    return await _content(house, live, asked, "application/octet-stream")


@router.put("/files")
async def write(
    path: Path, request: Request, live: TheLive, house: TheHouse,
    mode: Annotated[str | None, Query(pattern="^[0-7]{3,4}$")] = None,
    append: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Put a file there, whole or not at all; or add to it with `append`. Directories are made."""
    asked = {"op": "write", "path": path, "mode": int(mode, 8) if mode else None, "append": append}
    return await _give(house, live, asked, request)


@router.delete("/files")
async def remove(path: Path, live: TheLive, house: TheHouse) -> dict[str, Any]:
    """A file, a link, or a whole directory."""
    return await house.tell(live, {"op": "remove", "path": path})


@router.get("/files/stat")
async def about(path: Path, live: TheLive, house: TheHouse) -> dict[str, Any]:
    return await house.tell(live, {"op": "stat", "path": path})


@router.get("/files/list")
async def listing(
    path: Path, live: TheLive, house: TheHouse, depth: Annotated[int, Query(ge=1, le=64)] = 1
) -> dict[str, Any]:
    use, line = await opened(house, live, {"op": "list", "path": path, "depth": depth})
    entries: list[Any] = []
    try:
        async for kind, payload in line.frames():
            if kind == wire.ERROR:
                raise Line.inside_error(payload)
            found = Line.decoded(payload)
            if kind == wire.END:
                return {"entries": entries, **found}
            entries += found.get("entries", [])
        return {"entries": entries}
    finally:
        line.close()
        await use.__aexit__(None, None, None)


@router.post("/files/move")
async def move(body: MoveBody, live: TheLive, house: TheHouse) -> dict[str, Any]:
    return await house.tell(live, {"op": "move", "path": body.path, "to": body.to})


@router.post("/files/mkdir")
async def mkdir(path: Path, live: TheLive, house: TheHouse) -> dict[str, Any]:
    return await house.tell(live, {"op": "mkdir", "path": path})


@router.get("/files/watch")
async def watch(path: Path, live: TheLive, house: TheHouse, recursive: bool = False) -> Response:
    """One JSON line at each change, until you hang up; the first says that it watches."""
    use, line = await opened(house, live, {"op": "watch", "path": path, "recursive": recursive})
    try:
        first = await line.answer()
    except BaseException as error:
        line.close()
        await use.__aexit__(type(error), error, error.__traceback__)
        raise

    async def lines() -> AsyncIterator[bytes]:
        try:
            yield json.dumps({"kind": "watching", **first}).encode() + b"\n"
            async for kind, payload in line.frames():
                if kind == wire.ANSWER:
                    yield payload + b"\n"
        finally:
            line.close()
            await use.__aexit__(None, None, None)

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.get("/tree")
async def download(path: Path, live: TheLive, house: TheHouse) -> Response:
    """A file or a whole tree, as a tar."""
    return await _content(house, live, {"op": "download", "path": path}, "application/x-tar")


@router.put("/tree")
async def upload(path: Path, request: Request, live: TheLive, house: TheHouse) -> dict[str, Any]:
    """A tar, laid below that directory. Members that would lead out of it are refused."""
    return await _give(house, live, {"op": "upload", "path": path}, request)


async def _content(house: House, live: Live, asked: dict[str, Any], kind: str) -> Response:
    use, line = await opened(house, live, asked)
    try:
        first = await line.answer()
    except BaseException as error:
        line.close()
        await use.__aexit__(type(error), error, error.__traceback__)
        raise
    headers = {"x-bastide-size": str(first["size_bytes"])} if "size_bytes" in first else {}
    return StreamingResponse(_bytes(use, line), media_type=kind, headers=headers)


async def _bytes(use: Any, line: Line) -> AsyncIterator[bytes]:
    try:
        async for kind, payload in line.frames():
            if kind == wire.DATA:
                yield payload
            elif kind == wire.ERROR:
                raise Line.inside_error(payload)  # breaks the answer off: it must not look complete
    finally:
        line.close()
        await use.__aexit__(None, None, None)


async def _give(house: House, live: Live, asked: dict[str, Any], request: Request) -> dict[str, Any]:
    use, line = await opened(house, live, asked)
    try:
        async for data in request.stream():
            for start in range(0, len(data), wire.FRAME_BYTES_MAX):
                await line.send(wire.DATA, data[start : start + wire.FRAME_BYTES_MAX])
        await line.send(wire.END)
        return await line.answer()
    finally:
        line.close()
        await use.__aexit__(None, None, None)
