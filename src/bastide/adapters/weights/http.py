"""Weights over HTTP(S), gone on with by byte ranges."""

from __future__ import annotations

from pathlib import Path

import urllib3

from bastide.domain.errors import NotFound, Unavailable
from bastide.ports.weights import FetchProgress
from bastide.weights.fetching import Remote

CHUNK_BYTES = 2**16  # what a broken connection loses at most
TRIES = 5


class _RangeRefused(Exception):
    """The server has no such range, or sent another."""


class HttpFetcher:
    """See weights.fetching.Fetcher. Certificates are checked against the system's."""

    def __init__(self) -> None:
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=10.0, read=60.0), retries=False)

    def look(self, url: str) -> Remote:
        response = self._request("HEAD", url, {})
        if response.status in (403, 405, 501):  # servers that don't answer HEAD: ask for the first byte
            response = self._request("GET", url, {"Range": "bytes=0-0"})
            response.close()  # one that ignores ranges would send it all
        if response.status == 206:
            total = response.headers.get("content-range", "").rpartition("/")[2]
            length = int(total) if total.isdigit() else None
        else:
            text = response.headers.get("content-length", "")
            length = int(text) if text.isdigit() else None
        response.release_conn()
        self._expect(url, response.status, (200, 206))
        return Remote(length, None, response.headers.get("etag") or response.headers.get("last-modified"))

    def fetch(self, url: str, remote: Remote, partial: Path, progress: FetchProgress) -> None:
        """Broken connections are gone on with, a bounded number of times; what arrived is kept in any case."""
        for remaining in reversed(range(TRIES)):
            before = partial.stat().st_size if partial.exists() else 0
            if remote.weights_bytes is not None and before >= remote.weights_bytes:
                return
            try:
                self._fetch_rest(url, remote, partial, before, progress)
                return
            except _RangeRefused:
                partial.unlink(missing_ok=True)  # what is there goes beyond what the server has: begin anew
                if remaining == 0:
                    raise Unavailable(f"{url} refuses every range of itself", retry_after_s=5.0) from None
            except (urllib3.exceptions.HTTPError, OSError) as error:
                gained = partial.stat().st_size > before if partial.exists() else False
                if remaining == 0 or not gained:
                    raise Unavailable(
                        f"{url} broke off ({error}); the next try goes on from there", retry_after_s=5.0
                    ) from None

    def _fetch_rest(self, url: str, remote: Remote, partial: Path, start: int, progress: FetchProgress) -> None:
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and remote.tag is not None:
            headers["If-Range"] = remote.tag
        response = self._request("GET", url, headers)
        try:
            first = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
            if response.status == 416 or (response.status == 206 and first != str(start)):
                raise _RangeRefused
            self._expect(url, response.status, (200, 206))
            with open(partial, "ab" if response.status == 206 else "wb") as file:
                done = start if response.status == 206 else 0
                for chunk in response.stream(CHUNK_BYTES):
                    file.write(chunk)
                    done += len(chunk)
                    progress(done, remote.weights_bytes)
        finally:
            response.close()

    def _request(self, method: str, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(
                method, url, headers={"Accept-Encoding": "identity", **headers}, preload_content=False, redirect=True,
                retries=urllib3.Retry(None, connect=0, read=0, status=0, other=0, redirect=5),
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"{url} can't be reached: {error}", retry_after_s=10.0) from None

    def _expect(self, url: str, status: int, good: tuple[int, ...]) -> None:
        if status == 404:
            raise NotFound(f"there is nothing at {url}")
        if status not in good:
            raise Unavailable(f"{url} answered with status {status}", retry_after_s=10.0)
