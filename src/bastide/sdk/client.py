"""The client: one method per thing the control API does. Answers are the API's JSON as documented in docs/api.md."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from bastide.sdk.discovery import find
from bastide.sdk.source import Packed
from bastide.sdk.transport import Transport, error_of

Json = dict[str, Any]


class Client:
    """A line to one Bastide, acting in one project (None: the key's own).

    Every method raises a BastideError that says what to do. Synchronous; one client per thread.
    """

    def __init__(self, url: str, key: str, project: str | None = None, certificate: str | None = None) -> None:
        self.transport = Transport(url, key, certificate)
        self.url, self.key, self.project = self.transport.url, key, project

    @classmethod
    def discover(cls, data: Path | None = None, project: str | None = None) -> Client:
        """The Bastide that BASTIDE_URL and BASTIDE_API_KEY name, or the one that runs on this machine."""
        import os

        url, key = find(data)
        return cls(url, key, project, os.environ.get("BASTIDE_CA"))

    # --- services --------------------------------------------------------------------------------------------------

    def deploy(self, text: str, *, dry_run: bool = False) -> Json:
        """Declare the services of a spec file's text."""
        return self._post("/api/v1/deploy", {"text": text, "dry_run": dry_run})

    def progress(self, services: list[str]) -> Iterator[Json]:
        """One line at each change while these services are deployed. NAME follows the newest generation, NAME@GENERATION the one
        that a deploy or a rollback made: its line says `failed` where another takes its place."""
        return self.transport.lines("POST", "/api/v1/progress", self._where(), {"services": services})

    def services(self, *, all_projects: bool = False) -> Json:
        return self._get("/api/v1/services", all_projects=all_projects)

    def service(self, name: str) -> Json:
        return self._get(f"/api/v1/services/{quote(name, safe='')}")

    def remove(self, name: str) -> Json:
        return self._delete(f"/api/v1/services/{quote(name, safe='')}")

    def scale(self, name: str, replicas: str) -> Json:
        return self._post(f"/api/v1/services/{quote(name, safe='')}/scale", {"replicas": replicas})

    def sleep(self, name: str, rung: str | None = None) -> Json:
        return self._post(f"/api/v1/services/{quote(name, safe='')}/sleep", {"rung": rung})

    def wake(self, name: str) -> Json:
        return self._post(f"/api/v1/services/{quote(name, safe='')}/wake", {})

    def why(self, name: str, limit: int = 50) -> Json:
        return self._get(f"/api/v1/services/{quote(name, safe='')}/why", limit=limit)

    def logs(self, name: str, after: str = "") -> Json:
        return self._get(f"/api/v1/services/{quote(name, safe='')}/logs", after=after)

    # --- apps ------------------------------------------------------------------------------------------------------

    def upload(self, packed: Packed) -> bool:
        """Have a packed directory on the server; returns whether anything had to be sent."""
        path = f"/api/v1/sources/{quote(packed.digest, safe=':')}"
        if self._get(path)["here"]:
            return False
        with packed.tar() as tar:
            self.transport.send("PUT", path, self._where(), tar)
        return True

    def build(self, name: str) -> Json:
        """What the newest build of an app said."""
        return self._get(f"/api/v1/services/{quote(name, safe='')}/build")

    def collect_builds(self, kept_s: float | None = None) -> Json:
        body = {} if kept_s is None else {"kept_s": kept_s}
        return self._post("/api/v1/builds/collect", body)

    def rollback(self, name: str) -> Json:
        return self._post(f"/api/v1/services/{quote(name, safe='')}/rollback", {})

    def jobs(self, service: str | None = None) -> Json:
        """Jobs with their last runs."""
        return self._get("/api/v1/jobs", service=service)

    def run(self, name: str) -> Json:
        """Run a job now."""
        return self._post(f"/api/v1/services/{quote(name, safe='')}/run", {})

    def exec(self, name: str, argv: list[str], **options: Any) -> Iterator[Json]:
        """Lines with `stdout` or `stderr` (bytes); the last has `exit_code`."""
        body = {"argv": argv, **options}
        for line in self.transport.lines("POST", f"/api/v1/services/{quote(name, safe='')}/exec", self._where(), body):
            if "error" in line:
                raise error_of(line["error"])
            yield {
                key: base64.b64decode(value) if key in ("stdout", "stderr") else value for key, value in line.items()
            }

    def download(self, name: str, path: str, target: BinaryIO) -> int:
        """Write a file or tree from inside an app, as a tar, to an open file; returns its bytes."""
        return self.transport.save(f"/api/v1/services/{quote(name, safe='')}/files", target, self._where(path=path))

    def upload_files(self, name: str, path: str, tar: BinaryIO) -> Json:
        """Lay a tar below a directory inside an app."""
        answer: Json = self.transport.send(
            "PUT", f"/api/v1/services/{quote(name, safe='')}/files", self._where(path=path), tar
        )
        return answer

    def confirm(self) -> Json:
        return self._post("/api/v1/confirm", {})

    # --- projects, keys, secrets -----------------------------------------------------------------------------------

    def own_key(self) -> Json:
        return self._get("/api/v1/key")

    def projects(self) -> Json:
        return self._get("/api/v1/projects")

    def create_project(self, name: str) -> Json:
        return self._post("/api/v1/projects", {"name": name})

    def remove_project(self, name: str) -> Json:
        return self._delete(f"/api/v1/projects/{quote(name, safe='')}")

    def keys(self) -> Json:
        return self._get("/api/v1/keys")

    def create_key(self, **fields: Any) -> Json:
        """Fields as in the API: name, models, expires_in, requests_per_minute, budget …"""
        return self._post("/api/v1/keys", {name: value for name, value in fields.items() if value is not None})

    def revoke_key(self, key_id: str) -> Json:
        return self._delete(f"/api/v1/keys/{quote(key_id, safe='')}")

    def secrets(self) -> Json:
        return self._get("/api/v1/secrets")

    def set_secret(self, name: str, value: str) -> Json:
        path = f"/api/v1/secrets/{quote(name, safe='')}"
        answer: Json = self.transport.ask("PUT", path, self._where(), {"value": value})
        return answer

    def remove_secret(self, name: str) -> Json:
        return self._delete(f"/api/v1/secrets/{quote(name, safe='')}")

    # --- weights, usage, backups -----------------------------------------------------------------------------------

    def models(self) -> Json:
        return self._get("/api/v1/models")

    def pull(self, url: str, sha256: str | None = None) -> Iterator[Json]:
        """Lines with `done_bytes` and `total_bytes`; the last has `done`, or `error`."""
        return self.transport.lines("POST", "/api/v1/models/pull", None, {"url": url, "sha256": sha256})

    def remove_model(self, url: str) -> Json:
        return self._delete("/api/v1/models", url=url)

    def usage(self, **where: Any) -> Json:
        """`service`, `key`, `last` ("24h"), `all_projects`."""
        return self._get("/api/v1/usage", **where)

    def backup(self, target: BinaryIO) -> int:
        """Write a backup to an open file; returns its bytes."""
        return self.transport.save("/api/v1/backup", target)

    # --- models as users use them ----------------------------------------------------------------------------------

    def model_names(self) -> list[str]:
        return [model["id"] for model in self.transport.ask("GET", "/v1/models")["data"]]

    def chat(
        self, model: str, messages: list[Json], *, headers: dict[str, str] | None = None, **options: Any
    ) -> Iterator[str]:
        """Lines of the event stream, comments (what happens while it wakes) included.

        `headers`: takes in the answer's own as soon as they are there, such as x-bastide-wake.
        """
        body = {"model": model, "messages": messages, "stream": True, **options}
        return self.transport.text("POST", "/v1/chat/completions", None, body, headers)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _where(self, **query: Any) -> Json:
        return {"project": self.project, **query}

    def _get(self, path: str, **query: Any) -> Json:
        answer: Json = self.transport.ask("GET", path, self._where(**query))
        return answer

    def _post(self, path: str, body: Json) -> Json:
        answer: Json = self.transport.ask("POST", path, self._where(), body)
        return answer

    def _delete(self, path: str, **query: Any) -> Json:
        answer: Json = self.transport.ask("DELETE", path, self._where(**query))
        return answer
