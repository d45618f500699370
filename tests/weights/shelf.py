"""A local server of files that speaks HTTP with ranges, enough S3 and enough of the hub's API, and can be told to fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Shelf:
    """`files`: content by path. The other fields are how it shall behave; `seen`: what was asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.break_after: list[int] = []  # each GET of a file takes one: so many bytes, then the line breaks
        self.head_status = 200
        self.knows_ranges = True
        self.tells_length = True
        self.tells_tag = True
        self.announced: int | None = None  # a length other than the true one, told to HEAD
        self.url = ""

    def gets(self) -> list[str | None]:
        """The Range header of every GET."""
        return [ranges for method, _, ranges in self.seen if method == "GET"]

    @contextmanager
    def open(self) -> Iterator[Shelf]:
        shelf = self

        class Handler(_Handler):
            of = shelf

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    of: Shelf
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        ranges = self.headers.get("range")
        self.of.seen.append((self.command, path, ranges))
        if head and self.of.head_status != 200:
            self._send(self.of.head_status, b"", {})
        elif path.startswith("/moved/"):
            self._send(302, b"", {"location": path.removeprefix("/moved")})
        elif path.startswith("/api/"):
            self._api(path)
        elif path in self.of.files:
            self._file(self.of.files[path], ranges, head, hub="/resolve/" in path)
        else:
            more = {"x-error-code": "EntryNotFound"} if "/resolve/" in path else {}
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", more, head)

    def _api(self, path: str) -> None:
        match = re.match(r"/api/models/([^/]+/[^/]+)", path)
        prefix = f"/{match[1]}/resolve/main/" if match else "?"
        names = [name.removeprefix(prefix) for name in self.of.files if name.startswith(prefix)]
        if not names:
            self._send(404, b'{"error": "no such repository"}', {"x-error-code": "RepoNotFound"})
            return
        tree = [{"type": "file", "path": name, "size": len(self.of.files[prefix + name]), "oid": "0"} for name in names]
        body: Any = (
            tree if "/tree/" in path else {"id": match and match[1], "siblings": [{"rfilename": n} for n in names]}
        )
        self._send(200, json.dumps(body).encode(), {"content-type": "application/json"})

    def _file(self, data: bytes, ranges: str | None, head: bool, hub: bool) -> None:
        digest = hashlib.sha256(data).hexdigest()
        headers = {"accept-ranges": "bytes", "last-modified": "Sat, 21 Nov 2026 00:00:00 GMT"}
        if self.of.tells_tag:
            headers["etag"] = f'"{digest if hub else digest[:16]}"'
        if hub:
            headers |= {"x-repo-commit": "0" * 40, "x-linked-size": str(len(data)), "x-linked-etag": f'"{digest}"'}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", ranges or "")
        stale = self.headers.get("if-range", headers.get("etag")) != headers.get("etag")
        if self.headers.get("if-match", headers.get("etag")) != headers.get("etag"):
            self._send(412, b"", {}, head)
        elif match is not None and self.of.knows_ranges and not stale:
            first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
            if first >= len(data):
                self._send(416, b"", {"content-range": f"bytes */{len(data)}"})
                return
            headers["content-range"] = f"bytes {first}-{last}/{len(data)}"
            self._send(206, data[first : last + 1], headers, head)
        else:
            self._send(200, data, headers, head)

    def _send(self, status: int, body: bytes, headers: dict[str, str], head: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        length = self.of.announced if head and self.of.announced is not None else len(body)
        if self.of.tells_length:
            self.send_header("content-length", str(length))
        else:
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        if head:
            return
        is_file = status in (200, 206) and "accept-ranges" in headers
        if is_file and self.of.break_after:
            body = body[: self.of.break_after.pop(0)]
            self.close_connection = True
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True
