"""Sandboxes for Python: isolated computers to run code in that nobody has read.

    from bastide import Sandbox
    with Sandbox.create(timeout=300, egress=["pypi"], memory="512MiB") as sandbox:
        print(sandbox.exec("python -c 'print(1)'").stdout)

Every method raises a BastideError that says what to do. One sandbox per thread, or AsyncSandbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

from bastide.domain.errors import InvalidRequest, NotFound
from bastide.inside import wire
from bastide.sdk.client import Client
from bastide.sdk.frames import FRAMES, Gatherer, frames
from bastide.sdk.sandbox_files import Files

Json = dict[str, Any]
Take = Callable[[str], None]
Words = list[str]


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended. `exit_code` 137 and `timed_out`: its time was over. `duration`: seconds."""

    stdout: str
    stderr: str
    exit_code: int
    duration: float
    timed_out: bool = False
    signal: str | None = None

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


@dataclass(frozen=True, slots=True)
class Execution:
    """What code came to. `results`: what it showed, by media type, in order; `text`: the last one as plain text."""

    stdout: str
    stderr: str
    results: tuple[Json, ...]
    ok: bool
    error: Json | None = None
    timed_out: bool = False

    @property
    def text(self) -> str | None:
        plain = [result["text"] for result in self.results if result["kind"] == "text/plain"]
        return plain[-1] if plain else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A saved sandbox; make others from it with template=snapshot.template."""

    id: str
    name: str
    size_bytes: int
    sha256: str
    created_s: float

    @classmethod
    def list(cls, client: Client | None = None) -> tuple[Snapshot, ...]:
        """Those of this project, oldest first."""
        line = client or Client.discover()
        found = line.transport.ask("GET", "/api/v1/snapshots", {"project": line.project})["snapshots"]
        return tuple(sorted((cls.of(one) for one in found), key=lambda one: one.created_s))

    @classmethod
    def of(cls, about: Json) -> Snapshot:
        return cls(about["id"], about["name"], about["size_bytes"], about["sha256"], about["created_s"])

    def remove(self, client: Client | None = None) -> None:
        """Forget it. Sandboxes made from it live on."""
        line = client or Client.discover()
        line.transport.ask("DELETE", f"/api/v1/snapshots/{quote(self.id, safe='')}", {"project": line.project})

    @property
    def template(self) -> str:
        return f"snapshot:{self.id}"


INPUT_BYTES_MAX = 24 * 2**20  # of an exec: it goes with the question, in base64


def _stdin(data: str | bytes | None) -> Json:
    if data is None:
        return {}
    if len(data) > INPUT_BYTES_MAX:
        raise InvalidRequest(
            f"standard input of {len(data)} bytes is too long for one exec, which takes {INPUT_BYTES_MAX}; write it to a "
            "file in the sandbox and read that, or spawn the process and give it input piece by piece"
        )
    if isinstance(data, str):
        return {"stdin": data}
    import base64

    return {"stdin_base64": base64.b64encode(data).decode()}


class Process:
    """A process in the background; it lives on when this object is forgotten, and `Sandbox.process(number)` finds it."""

    def __init__(self, sandbox: Sandbox, number: int, pid: int) -> None:
        self._sandbox, self.number, self.pid = sandbox, number, pid
        self._path = f"{sandbox._path}/processes/{number}"

    def __repr__(self) -> str:
        return f"Process({self.number} of {self._sandbox.id})"

    def stdin(self, data: str | bytes = b"", *, end: bool = False) -> None:
        """Give it input; with `end`, no more will come."""
        content = data.encode() if isinstance(data, str) else data
        self._sandbox._client.transport.give("POST", f"{self._path}/input", {"end": end}, content)

    def wait(self, on_stdout: Take | None = None, on_stderr: Take | None = None) -> Result:
        """Until it ends; its newest MiB of output from before, and all that comes."""
        return self._gathered(True, on_stdout, on_stderr)

    def output(self) -> Result:
        """What is kept of its output now; exit_code -1 where it still runs."""
        return self._gathered(False, None, None)

    def _gathered(self, follow: bool, on_stdout: Take | None, on_stderr: Take | None) -> Result:
        response = self._sandbox._client.transport.open(
            "GET", f"{self._path}/output", {"follow": follow}, accept=FRAMES
        )
        gatherer = Gatherer(on_stdout, on_stderr)
        return _result(gatherer, gatherer.run(frames(response)))

    def kill(self, signal: str | int = "SIGKILL") -> None:
        self._sandbox._post(f"/processes/{self.number}/signal", {"signal": signal})

    def resize(self, cols: int, rows: int) -> None:
        """Of a terminal."""
        self._sandbox._post(f"/processes/{self.number}/resize", {"cols": cols, "rows": rows})


class Sandbox:
    """One sandbox. Make it with `create`, find it with `connect`."""

    def __init__(self, client: Client, about: Json) -> None:
        self._client, self.id, self.about = client, str(about["id"]), about
        self._path = f"/api/v1/sandboxes/{quote(self.id, safe='')}"
        self.files = Files(client, self._path)

    def __repr__(self) -> str:
        return f"Sandbox({self.id!r})"

    # --- making and finding ----------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        template: str = "python",
        *,
        timeout: float = 300.0,
        env: dict[str, str] | None = None,
        metadata: dict[str, str] | None = None,
        egress: Words | None = None,
        egress_tier: str | None = None,
        memory: str | None = None,
        cpu: float | None = None,
        processes: int | None = None,
        disk: str | None = None,
        tier: str | None = None,
        client: Client | None = None,
    ) -> Sandbox:
        """A new one, ready. `timeout`: seconds until it ends by itself. `egress`: what may be reached; nothing else is."""
        line = client or Client.discover()
        wanted = {
            "template": template, "timeout": timeout, "env": env or {}, "metadata": metadata or {},
            "egress": egress or [], "egress_tier": egress_tier, "memory": memory, "cpu": cpu, "processes": processes, "disk": disk, "tier": tier,
        }  # fmt: skip
        body = {name: value for name, value in wanted.items() if value is not None}
        return cls(line, line.transport.ask("POST", "/api/v1/sandboxes", {"project": line.project}, body))

    @classmethod
    def connect(cls, id: str, client: Client | None = None) -> Sandbox:
        """One that lives. Raises NotFound."""
        if not id:
            raise InvalidRequest("a sandbox is found by its id, such as sb-0123456789abcdef; this one is empty")
        line = client or Client.discover()
        return cls(line, line.transport.ask("GET", f"/api/v1/sandboxes/{quote(id, safe='')}"))

    @classmethod
    def list(cls, metadata: dict[str, str] | None = None, client: Client | None = None) -> tuple[Sandbox, ...]:
        """Those that live, oldest first; with `metadata`, those that have all of it."""
        line = client or Client.discover()
        pairs = [f"{name}={value}" for name, value in (metadata or {}).items()]
        found = line.transport.ask("GET", "/api/v1/sandboxes", {"project": line.project, "metadata": pairs})
        return tuple(cls(line, about) for about in found["sandboxes"])

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import contextlib

        with contextlib.suppress(NotFound):
            self.kill()

    # --- running ---------------------------------------------------------------------------------------------------

    def exec(
        self,
        command: str | tuple[str, ...],
        *,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout: float | None = None,
        stdin: str | bytes | None = None,
        on_stdout: Take | None = None,
        on_stderr: Take | None = None,
        on_bytes: Callable[[int, bytes], None] | None = None,
    ) -> Result:
        """Run a command to its end: a text for the shell, or words that are run as they are.

        `cwd`: where to run it, from its home on where that is relative. `timeout`: seconds. `on_bytes` is told (1 or 2,
        bytes) of its output as it comes, which then is not kept: for what is no text.
        """
        body = {**_what(command), "cwd": cwd, "env": env or {}, "timeout": timeout, **_stdin(stdin)}
        response = self._client.transport.open("POST", f"{self._path}/exec", None, body, accept=FRAMES)
        numbered = None if on_bytes is None else lambda kind, data: on_bytes(1 if kind == wire.OUTPUT else 2, data)
        gatherer = Gatherer(on_stdout, on_stderr, on_bytes=numbered)
        return _result(gatherer, gatherer.run(frames(response)))

    def run_code(
        self,
        code: str,
        *,
        context: str = "default",
        timeout: float | None = None,
        on_stdout: Take | None = None,
        on_stderr: Take | None = None,
        on_result: Callable[[Json], None] | None = None,
    ) -> Execution:
        """Run Python that remembers what was run before in the same context."""
        body = {"code": code, "context": context, "timeout": timeout}
        response = self._client.transport.open("POST", f"{self._path}/code", None, body, accept=FRAMES)
        gatherer = Gatherer(on_stdout, on_stderr, on_result)
        end = gatherer.run(frames(response))
        return Execution(
            gatherer.text(wire.OUTPUT), gatherer.text(wire.ERRORS), tuple(gatherer.results), bool(end.get("ok")),
            end.get("error"), bool(end.get("timed_out")),
        )  # fmt: skip

    def spawn(
        self,
        command: str | tuple[str, ...],
        *,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        tag: str = "",
        stdin: bool = True,
    ) -> Process:
        """Start a process in the background."""
        body = {**_what(command), "cwd": cwd, "env": env or {}, "tag": tag, "stdin": stdin}
        return self._process(self._post("/processes", body))

    def pty(self, cols: int = 80, rows: int = 24, command: str = "/bin/bash -i", **options: Any) -> Process:
        """A terminal: what is typed goes in by `stdin`, what it shows comes by `wait` or `output`."""
        body = {"command": command, "stdin": True, "pty": {"cols": cols, "rows": rows}, **options}
        return self._process(self._post("/processes", body))

    def processes(self) -> tuple[Json, ...]:
        """Those started in the background, ended ones too."""
        return tuple(self._get("/processes")["processes"])

    def process(self, number: int) -> Process:
        """One of them, again. Raises NotFound."""
        for about in self.processes():
            if about["process"] == number:
                return Process(self, number, int(about["pid"]))
        raise NotFound(f"no process {number} was started in {self.id}")

    def _process(self, answer: Json) -> Process:
        return Process(self, int(answer["process"]), int(answer["pid"]))

    # --- the whole -------------------------------------------------------------------------------------------------

    def url(self, port: int, expires_in: float = 3600.0, *, own_origin: bool = False) -> str:
        """An address that leads to a port inside, for whoever has it, until it expires. WebSockets pass.

        `own_origin`: a host name of its own below localhost, for pages in a browser: links from `/` work, and no other page
        reads what they keep. Without, a path of Bastide's own address, which every client resolves.
        """
        made = self._post("/url", {"port": port, "expires_in": expires_in})
        return str(made["own_origin_url" if own_origin else "url"])

    def snapshot(self, name: str = "") -> Snapshot:
        """Save it, processes and all, while it runs on."""
        return Snapshot.of(self._post("/snapshot", {"name": name}))

    def fork(self, count: int = 1) -> tuple[Sandbox, ...]:
        """That many more of it, as it is now."""
        return tuple(Sandbox(self._client, one) for one in self._post("/fork", {"count": count})["sandboxes"])

    def rest(self) -> None:
        """Stop it and page its memory out now, as it is when idle for a while; any use wakes it."""
        self.about = self._post("/rest", {})

    def pause(self) -> None:
        """Save it and end its processes; any use brings it back."""
        self.about = self._post("/pause", {})

    def resume(self) -> None:
        self.about = self._post("/resume", {})

    def set_timeout(self, seconds: float) -> None:
        """It ends that many seconds from now."""
        self.about = self._put("/timeout", {"timeout": seconds})

    def set_egress(self, allow: Words) -> None:
        """What may be reached from now on; open connections that are no longer allowed end at once."""
        self.about = self._put("/egress", {"allow": allow})

    def metrics(self) -> Json:
        return self._get("/metrics")

    def refresh(self) -> Json:
        """What it is now."""
        self.about = self._get("")
        return self.about

    @property
    def seconds_left(self) -> float:
        return max(0.0, float(self.about["expires_s"]) - time.time())

    def kill(self) -> None:
        """End it now, with everything in it."""
        self._client.transport.ask("DELETE", self._path)

    def _get(self, path: str) -> Json:
        answer: Json = self._client.transport.ask("GET", self._path + path)
        return answer

    def _post(self, path: str, body: Json) -> Json:
        answer: Json = self._client.transport.ask("POST", self._path + path, None, body)
        return answer

    def _put(self, path: str, body: Json) -> Json:
        answer: Json = self._client.transport.ask("PUT", self._path + path, None, body)
        return answer


def _what(command: str | tuple[str, ...]) -> Json:
    return {"command": command} if isinstance(command, str) else {"argv": [*command]}


def _result(gatherer: Gatherer, end: Json) -> Result:
    return Result(
        gatherer.text(wire.OUTPUT), gatherer.text(wire.ERRORS), int(end.get("exit_code", -1)),
        float(end.get("duration_s", 0.0)), bool(end.get("timed_out")), end.get("signal"),
    )  # fmt: skip
