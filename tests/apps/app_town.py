"""Apps for tests: code to deploy, and asking a deployed app over plain HTTP."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from house import House

from bastide.cli.apps import uploaded

# Standard library alone: it starts in a tenth of a second.
SMALL = """
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
MARK = "first"
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        status, body = 200, {"mark": MARK, "pid": os.getpid(), "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}
        if self.path == "/env": body = dict(os.environ)
        if self.path == "/health": status = 500 if os.path.exists("/tmp/sick") else 200
        if self.path == "/exit": os._exit(3)
        if self.path == "/large": self.answer(200, b"z" * 48_000_000); return
        if self.path == "/slow": time.sleep(0.3)
        if self.path.startswith("/write"):
            with open("/data/kept", "a") as f: f.write("x")
            body = {"kept": os.path.getsize("/data/kept")}
        if self.path == "/config": body = {"text": open("/etc/app/app.toml").read()}
        self.answer(status, json.dumps(body).encode())
    def do_POST(self):
        if self.path == "/early": self.answer(403, b"no"); return
        if self.path == "/stuck": time.sleep(1); self.close_connection = True; return
        left, count = int(self.headers["content-length"]), 0
        while left and (data := self.rfile.read(min(left, 65536))): left -= len(data); count += len(data)
        self.answer(200, json.dumps({"count": count}).encode())
    do_PUT = do_PATCH = do_DELETE = do_POST
    def do_HEAD(self): self.answer(200, b"x" * 10)
    def answer(self, status, body):
        self.send_response(status); self.send_header("content-length", str(len(body))); self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)
    def log_message(self, *args): pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
print("serving", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
FASTAPI = """
import asyncio
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
app = FastAPI()
gone = []
@app.get("/")
def root(request: Request): return {"app": "fastapi", "headers": dict(request.headers)}
@app.post("/echo")
async def echo(request: Request):
    async def pieces():
        async for piece in request.stream(): yield piece
    return StreamingResponse(pieces(), media_type="application/octet-stream")
@app.get("/sse")
async def sse():
    async def events():
        try:
            for number in range(1000):
                yield f"data: {number}\\n\\n"
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            gone.append("left"); raise
    return StreamingResponse(events(), media_type="text/event-stream")
@app.get("/gone")
def who_left(): return gone
@app.websocket("/ws")
async def ws(line: WebSocket):
    await line.accept()
    async for text in line.iter_text(): await line.send_text("echo " + text)
"""


class Town:
    """A house with apps. `deploy` packs, uploads, declares and waits."""

    def __init__(self, house: House, code: Path) -> None:
        self.house, self._code = house, code
        parts = urlsplit(house.url)
        self.host, self.port = parts.hostname or "", parts.port or 0

    def deploy(self, name: str, files: dict[str, str], **spec: Any) -> dict[str, Any]:
        """The last line of progress. Keys of `spec` as in the file."""
        folder = self._code / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)
        text = json.dumps({"services": {name: {"app": name, **spec}}})
        text = uploaded(self.house.client, text, self._code, quiet=True)
        return self.house.deploy(text)[name]

    def ask(
        self, name: str, path: str = "/", method: str = "GET", body: Any = None, headers: dict[str, str] | None = None, *,
        key: str | None = "", prefix: bool = True,
    ) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
        """Status, headers, body. `key` empty: the admin's; None: none."""
        own = {"X-Bastide-Key": key or self.house.key} if key is not None else {}
        line = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            line.request(method, f"/apps/default/{name}{path}" if prefix else path, body, {**own, **(headers or {})})
            answer = line.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            line.close()

    def json(self, name: str, path: str = "/", **options: Any) -> Any:
        status, _, body = self.ask(name, path, **options)
        assert status == 200, (status, body[:500])
        return json.loads(body)
