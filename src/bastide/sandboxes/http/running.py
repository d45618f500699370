"""Run things in a sandbox: commands, background processes, terminals, stateful code."""

from __future__ import annotations

import base64
import signal as signals
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from bastide.domain.errors import InvalidRequest
from bastide.inside import wire
from bastide.sandboxes.http.bodies import Body
from bastide.sandboxes.http.caller import TheHouse, TheLive
from bastide.sandboxes.http.frames import FRAMES, answered, opened, streamed, unless_gone
from bastide.sandboxes.line import Line

router = APIRouter(prefix="/api/v1/sandboxes/{sandbox}", tags=["sandboxes"])


class TerminalSize(Body):
    cols: int = Field(default=80, ge=1, le=1000)
    rows: int = Field(default=24, ge=1, le=1000)


class ExecBody(Body):
    """`command` is given to the shell; `argv` is run as it is. It reads `stdin`, or the bytes of `stdin_base64`."""

    command: str | None = None
    argv: list[str] | None = None
    cwd: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    timeout: float | None = Field(default=None, gt=0, description="Seconds; then it is killed")
    stdin: str | None = None
    stdin_base64: str | None = Field(default=None, description="Standard input that is no text")

    def input(self) -> bytes | None:
        """Raises InvalidRequest."""
        if self.stdin_base64 is None:
            return None if self.stdin is None else self.stdin.encode()
        if self.stdin is not None:
            raise InvalidRequest("give either stdin, a text, or stdin_base64", param="stdin_base64")
        try:
            return base64.b64decode(self.stdin_base64, validate=True)
        except ValueError:
            raise InvalidRequest("stdin_base64 is not base64", param="stdin_base64") from None


class SpawnBody(Body):
    command: str | None = None
    argv: list[str] | None = None
    cwd: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    tag: str = ""
    stdin: bool = False
    pty: TerminalSize | None = None


class SignalBody(Body):
    signal: str | int = "SIGTERM"


class CodeBody(Body):
    code: str
    context: str = "default"
    timeout: float | None = Field(default=None, gt=0)
    restart: bool = False
    cwd: str | None = None


def _question(operation: str, body: ExecBody | SpawnBody) -> dict[str, Any]:
    if (body.command is None) == (body.argv is None) or body.argv == []:
        raise InvalidRequest("give either command, for the shell, or argv", param="command")
    asked: dict[str, Any] = {"op": operation, "env": body.env, "cwd": body.cwd}
    if body.argv is not None:
        asked["argv"] = body.argv
    else:
        asked["command"] = body.command
    return asked


@router.post("/exec")
async def execute(body: ExecBody, request: Request, live: TheLive, house: TheHouse) -> Response:
    """Run a command to its end. Hanging up kills it. With `Accept: application/vnd.bastide.frames`, a stream."""
    question = _question("exec", body)
    question["timeout_s"] = body.timeout
    stdin = body.input()
    question["stdin"] = stdin is not None
    return await answered(request, house, live, question, stdin or b"")


@router.post("/code")
async def code(body: CodeBody, request: Request, live: TheLive, house: TheHouse) -> Response:
    """Run Python in an interpreter that remembers; `results` are what it showed, by media type."""
    question = {
        "op": "code", "code": body.code, "context": body.context, "timeout_s": body.timeout, "restart": body.restart,
        "cwd": body.cwd,
    }  # fmt: skip
    return await answered(request, house, live, question)


@router.post("/processes", status_code=201)
async def spawn(body: SpawnBody, live: TheLive, house: TheHouse) -> dict[str, Any]:
    """Start a process that goes on after this answers; its newest MiB of output is kept for whoever comes back."""
    question = _question("spawn", body)
    question |= {"tag": body.tag, "stdin": body.stdin, "pty": body.pty.model_dump() if body.pty else None}
    return await house.tell(live, question)


@router.get("/processes")
async def processes(live: TheLive, house: TheHouse) -> dict[str, Any]:
    return await house.tell(live, {"op": "processes"})


@router.get("/processes/{process}/output")
async def output(
    process: int, live: TheLive, house: TheHouse,
    since: Annotated[int, Query(ge=0, description="Bytes of output known already")] = 0,
    follow: bool = True,
) -> Response:  # fmt: skip
    """Its output from there on and, with `follow`, until it ends: frames."""
    use, line = await opened(house, live, {"op": "attach", "process": process, "since": since, "follow": follow})
    try:
        first = await line.frame()
        if first[0] == wire.ERROR:
            raise Line.inside_error(first[1])
    except BaseException as error:
        line.close()
        await use.__aexit__(type(error), error, error.__traceback__)
        raise
    return StreamingResponse(streamed(use, line, first), media_type=FRAMES)


@router.post("/processes/{process}/input")
async def give(process: int, request: Request, live: TheLive, house: TheHouse, end: bool = False) -> dict[str, Any]:
    """Bytes for its standard input; with `end`, no more will come."""
    data = await request.body()
    use, line = await opened(house, live, {"op": "input", "process": process})

    async def given() -> dict[str, Any]:
        if data:
            await line.send(wire.INPUT, data)
        if end:
            await line.send(wire.INPUT_END)
        await line.send(wire.END)
        return await line.answer()

    try:
        return await unless_gone(request, given()) or {}  # it may read slowly: who hangs up is not waited for
    finally:
        line.close()
        await use.__aexit__(None, None, None)


@router.post("/processes/{process}/resize")
async def resize(process: int, body: TerminalSize, live: TheLive, house: TheHouse) -> dict[str, Any]:
    import json

    use, line = await opened(house, live, {"op": "input", "process": process})
    try:
        await line.send(wire.WINDOW, json.dumps(body.model_dump()).encode())
        await line.send(wire.END)
        return await line.answer()
    finally:
        line.close()
        await use.__aexit__(None, None, None)


@router.post("/processes/{process}/signal")
async def signal(process: int, body: SignalBody, live: TheLive, house: TheHouse) -> dict[str, Any]:
    """Send a signal to the process and its group, by name or number."""
    try:
        number = signals.Signals[body.signal] if isinstance(body.signal, str) else signals.Signals(body.signal)
    except (KeyError, ValueError):
        raise InvalidRequest(f"there is no signal {body.signal!r}", param="signal") from None
    return await house.tell(live, {"op": "signal", "process": process, "signal": int(number)})
