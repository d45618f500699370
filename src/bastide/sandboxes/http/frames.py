"""Answers that go on: the box's own frames passed through, or gathered into one JSON for whoever asks for that."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from bastide.domain.errors import BastideError, TooLarge
from bastide.inside import wire
from bastide.sandboxes.house import House
from bastide.sandboxes.line import Line
from bastide.sandboxes.lives import Live

T = TypeVar("T")
FRAMES = "application/vnd.bastide.frames"
GATHERED_BYTES_MAX = 16 * 2**20


async def opened(house: House, live: Live, question: dict[str, Any]) -> tuple[Any, Line]:
    """(what to leave by, the line). The sandbox counts as in use until it is left."""
    use = house.using(live)
    await use.__aenter__()
    try:
        return use, await house.ask(live, question)
    except BaseException as error:
        await use.__aexit__(type(error), error, error.__traceback__)
        raise


async def streamed(
    use: Any, line: Line, first: tuple[int, bytes] | None, giving: asyncio.Task[None] | None = None
) -> AsyncIterator[bytes]:
    """Frames as they come. `giving`: what is still being told meanwhile; it ends with this."""
    try:
        if first is not None:
            yield wire.HEAD.pack(first[0], len(first[1])) + first[1]
            if first[0] in (wire.EXIT, wire.END, wire.ERROR):
                return
        async for kind, payload in line.frames():
            yield wire.HEAD.pack(kind, len(payload)) + payload
    finally:
        if giving is not None:
            giving.cancel()
        line.close()
        await use.__aexit__(None, None, None)


async def _given(line: Line, stdin: bytes) -> None:
    """Standard input to its end, beside what is heard meanwhile: what reads and writes at once would wait for us else."""
    try:
        if stdin:
            await line.send(wire.INPUT, stdin)
        await line.send(wire.INPUT_END)
    except BastideError:
        pass  # it has gone: whoever listens hears so


async def answered(
    request: Request, house: House, live: Live, question: dict[str, Any], stdin: bytes = b""
) -> Response:
    """Run a question whose answer is output and an end: as frames where they are asked for, else gathered."""
    use, line = await opened(house, live, question)
    wants_frames = FRAMES in request.headers.get("accept", "")
    giving = asyncio.create_task(_given(line, stdin)) if question.get("stdin") else None

    async def asked() -> tuple[tuple[int, bytes], dict[str, Any]]:
        first = await line.frame()
        if first[0] == wire.ERROR:
            raise Line.inside_error(first[1])
        return first, {} if wants_frames else await gathered(line, first)

    handed_on = False
    try:
        answer = await unless_gone(request, asked())
        if answer is None:
            return Response(status_code=499)  # nobody reads it: closing the line below ends what runs
        first, whole = answer
        handed_on = wants_frames
        if wants_frames:
            return StreamingResponse(streamed(use, line, first, giving), media_type=FRAMES)
        return JSONResponse(whole)
    finally:
        if not handed_on:
            if giving is not None:
                giving.cancel()
            line.close()
            await use.__aexit__(None, None, None)


async def unless_gone(request: Request, work: Awaitable[T]) -> T | None:
    """What the work comes to; None where whoever asked has gone before. Then it is cancelled."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        gone.cancel()


async def _hung_up(request: Request) -> None:
    """Until whoever asked has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def gathered(line: Line, first: tuple[int, bytes]) -> dict[str, Any]:
    """All of it as one object. What is no text is in base64, and says so."""
    kept: dict[int, bytearray] = {wire.OUTPUT: bytearray(), wire.ERRORS: bytearray()}
    results: list[Any] = []
    end: dict[str, Any] = {}

    def take(kind: int, payload: bytes) -> bool:
        if kind in kept:
            kept[kind] += payload
            if len(kept[kind]) > GATHERED_BYTES_MAX:
                raise TooLarge(
                    f"the output is larger than {GATHERED_BYTES_MAX >> 20} MiB; take it as a stream of frames"
                )
        elif kind == wire.ANSWER:
            results.append(Line.decoded(payload))
        elif kind == wire.ERROR:
            raise Line.inside_error(payload)
        elif kind in (wire.EXIT, wire.END):
            end.update(Line.decoded(payload))
            return True
        return False

    if not take(*first):
        async for kind, payload in line.frames():
            if take(kind, payload):
                break
    answer: dict[str, Any] = {}
    for name, kind in (("stdout", wire.OUTPUT), ("stderr", wire.ERRORS)):
        data = bytes(kept[kind])
        try:
            answer[name] = data.decode()
        except UnicodeDecodeError:
            answer[f"{name}_base64"] = base64.b64encode(data).decode()
            answer[name] = data.decode(errors="replace")
    return {**answer, **({"results": results} if results else {}), **end}
