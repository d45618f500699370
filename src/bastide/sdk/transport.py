"""HTTP for the client: requests, streamed lines, and wire errors turned back into exceptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

import urllib3

from bastide.domain.errors import BastideError, InternalError, InvalidSpec, Problem, Unavailable, error_types

_TYPES = error_types()


class Transport:
    """`url`: of the gateway, without a path. `certificate`: a CA file for https with an own authority."""

    def __init__(self, url: str, key: str, certificate: str | None = None) -> None:
        self.url = url.rstrip("/")
        options: dict[str, Any] = {"ca_certs": certificate} if certificate else {}
        self._pool = urllib3.PoolManager(
            retries=False, maxsize=16, timeout=urllib3.Timeout(connect=5.0, read=None), **options
        )
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    def ask(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        """The decoded JSON answer. Raises the BastideError the server raised; Unavailable where nobody answers."""
        response = self._open(method, path, query, body)
        return json.loads(response.data)

    def lines(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Iterator[Any]:
        """Each line of a streamed answer, decoded, as it comes."""
        for text in self.text(method, path, query, body):
            if text.strip():
                yield json.loads(text)

    def text(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Iterator[str]:
        """Each line of a streamed answer, as it comes. `headers` takes in the answer's, names in lower case."""
        response = self._open(method, path, query, body)
        if headers is not None:
            headers.update((name.lower(), value) for name, value in response.headers.items())
        rest = b""
        try:
            while chunk := response.read1():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"the connection to {self.url} broke off: {error}") from None
        finally:
            response.close()
        if rest:
            yield rest.decode(errors="replace")

    def save(self, path: str, target: Any, query: dict[str, Any] | None = None) -> int:
        """Write an answer's bytes to an open binary file. Returns how many."""
        response = self._open("GET", path, query, None)
        count = 0
        for chunk in response.stream(2**20):
            count += target.write(chunk)
        return count

    def open(
        self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None, *, accept: str
    ) -> urllib3.BaseHTTPResponse:
        """An answer of the kind `accept`, still to be read."""
        return self._open(method, path, query, body, {"accept": accept})

    def send(self, method: str, path: str, query: dict[str, Any] | None, content: IO[bytes]) -> Any:
        """Send an open file from where it stands, as it is read; the decoded JSON answer."""
        begin = content.tell()
        length = content.seek(0, 2) - begin
        content.seek(begin)
        kind = {"content-type": "application/octet-stream", "content-length": str(length)}
        return json.loads(self._open(method, path, query, content, kind).data)

    def give(self, method: str, path: str, query: dict[str, Any] | None, content: bytes) -> Any:
        """Send bytes as they are; the decoded JSON answer."""
        kind = {"content-type": "application/octet-stream"}
        return json.loads(self._open(method, path, query, content, kind).data)

    def pieces(self, method: str, path: str, query: dict[str, Any] | None = None) -> Iterator[bytes]:
        """An answer's bytes as they come. Raises Unavailable where it breaks off."""
        response = self._open(method, path, query, None)

        def read() -> Iterator[bytes]:
            try:
                while piece := response.read1():
                    yield piece
            except urllib3.exceptions.HTTPError as error:
                raise Unavailable(f"the connection to {self.url} broke off: {error}") from None
            finally:
                response.close()

        return read()

    def _open(
        self, method: str, path: str, query: dict[str, Any] | None, body: Any, headers: dict[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        is_content = isinstance(body, bytes) or hasattr(body, "read")
        data = body if is_content else json.dumps(body).encode() if body is not None else None
        pairs = [
            (name, str(value).lower() if isinstance(value, bool) else str(value))
            for name, given in (query or {}).items()
            if given is not None
            for value in (given if isinstance(given, list | tuple) else [given])
        ]
        from urllib.parse import urlencode

        address = self.url + path + (f"?{urlencode(pairs, safe='@')}" if pairs else "")
        try:
            response = self._pool.request(
                method, address, body=data, headers={**self._headers, **(headers or {})}, preload_content=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(
                f"no Bastide answers at {self.url} ({_short(error)}); start one with `bastide up`, "
                "or set BASTIDE_URL and BASTIDE_API_KEY"
            ) from None
        if response.status >= 400:
            raise _raised(response.status, response.data)
        return response


def _raised(status: int, data: bytes) -> BastideError:
    try:
        error = json.loads(data)["error"]
        message, code = str(error["message"]), str(error.get("code"))
    except (ValueError, KeyError, TypeError):
        return InternalError(f"the server answered with status {status}: {data[:200]!r}")
    if code == InvalidSpec.code and error.get("problems"):
        return InvalidSpec(tuple(Problem(p["line"], p["where"], p["message"]) for p in error["problems"]))
    return error_of({"message": message, "code": code, "param": error.get("param")})


def error_of(error: dict[str, Any]) -> BastideError:
    """The exception that an error on the wire stands for."""
    code, message = str(error.get("code")), str(error.get("message"))
    kind = _TYPES.get(code, InternalError) if code != InvalidSpec.code else InternalError
    return kind(message, param=error.get("param"))


def _short(error: Exception) -> str:
    text = str(error)
    return "connection refused" if "refused" in text else text.split(": ")[-1][:120]
