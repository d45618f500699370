"""The spec file's words for apps. Owns their fields and their meaning; reads no directory and builds nothing."""

from __future__ import annotations

import re
from typing import Any

from bastide.control.specvalues import Field, Reader, a_name, a_number, a_time, boolean, memory, one_of, whole
from bastide.control.yamltree import Branch, Leaf, Row, Tree
from bastide.domain.apps import (
    JOB_RETRIES_MAX,
    PORT,
    AppSpec,
    ConfigFile,
    Health,
    Job,
    Rollout,
    Target,
    Volume,
    secret_variable,
)
from bastide.domain.isolation import Tier
from bastide.domain.spec import Resources
from bastide.domain.units import parse_bytes

APP_IN_FLIGHT = 100
DAY_S = 86400.0
VOLUME_BYTES_MIN, VOLUME_BYTES_MAX = 8 * 2**20, 2**44  # what a file system needs, and what one in a file can be
TEXT_BYTES_MAX = 256 * 1024
MEMORY_BYTES_MIN = 64 * 2**20  # what its box and a small interpreter take before the app's own first line
DISK_BYTES_MIN = 2**20
WORD_BYTES_MAX = 128 * 1024  # Linux takes no longer argument, and no longer NAME=value; its last byte is a zero
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_REFERENCE = re.compile(r"docker://[A-Za-z0-9][A-Za-z0-9._:/@-]{1,400}")
_DOMAIN = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# Told to every app by Bastide itself.
OWN_VARIABLES = ("PORT", "BASTIDE_URL", "BASTIDE_API_KEY", "BASTIDE_PROJECT", "BASTIDE_SERVICE", "OPENAI_BASE_URL", "OPENAI_API_KEY")  # fmt: skip

APP_FIELDS: tuple[Field, ...] = (
    Field("app", "DIR, or {source: sha256:…}", "-", "Instead of `model`: a directory with a Python or Node web app, or anything with a `command`. `bastide deploy` packs and uploads it; relative to the spec file."),
    Field("image", "PATH, docker://NAME, or {source: sha256:…}", "-", "Instead of `app`: an OCI image. A layout (a directory) or an archive of OCI's or Docker's, relative to the spec file, which `bastide deploy` uploads; or one in a registry that the server can reach."),
    Field("command", "text, or a list of words", "found out", "What to run in the app's directory. A text is run by the shell. It listens on `$PORT`."),
    Field("port", "1 to 65535", str(PORT), "Where the app listens inside; told to it as `PORT`."),
    Field("env", "{NAME: value}", "{}", "Environment variables."),
    Field("secrets", "[NAME]", "[]", "Secrets of the project, given as variables of the same name in capitals: `api-token` is `API_TOKEN`."),
    Field("config_files", "{PATH: text}", "{}", "Files laid into the app's box, below `/etc/app/` unless the path is absolute."),
    Field("health.path", "a path", "a connection", "What to ask (any answer below 400 is well). Left out: that it takes a connection."),
    Field("health.grace", "a time", "5s", "How long a start may take until the app is well for the first time, before `failures` times `interval` more are counted."),
    Field("health.interval", "a time", "60s", "How often it is asked while it is awake."),
    Field("health.timeout", "a time", "5s", "How long one answer may take."),
    Field("health.failures", "1 to 100", "3", "Bad answers in a row until it is restarted."),
    Field("rollout", "rolling, blue-green, immediate", "rolling", "`rolling`: one new instance is healthy before the old ones go. `blue-green`: as many as were awake. `immediate`: the old one ends first. A generation that was never healthy takes no traffic."),
    Field("target.rps", "number", "-", "Requests a second that one instance should carry before the next is woken."),
    Field("target.p95_ms", "number", "-", "Milliseconds within which 95 of 100 requests should begin to be answered."),
    Field("target.cpu", "number", "-", "Cores that one instance should keep busy before the next is woken."),
    Field("volumes", "[{name, path, size}]", "[]", "Directories that outlive instances. A `size` that can't be enforced here is refused; left out it is unlimited."),
    Field("public", "true, false", "false", "Who asks needs no key. Else a key of the project: `Authorization: Bearer KEY` or `X-Bastide-Key: KEY`; the app never sees it."),
    Field("domains", "[NAME]", "[]", "More host names it is served by, beside `NAME.PROJECT.localhost`."),
    Field("isolation", "namespace, gvisor", "namespace", "How far it is kept from the machine. A tier that does not hold here is refused."),
    Field("egress_tier", "proxy, packet", "proxy", "How it is enforced. `proxy`: for HTTP clients and those that know CONNECT. `packet`: for any TCP client, such as a database's; takes root."),
    Field("egress", "[name, CIDR or either:port]", "[]", "Where it may connect to. Nothing, unless said. What can't be enforced here is refused."),
    Field("resources.disk", "a size from 1MiB", "unlimited", "What the app may write beside its volumes (`/tmp` and its home, both in memory)."),
    Field("schedule", "cron line", "-", "Run at these times (UTC) instead of serving: `0 3 * * *`. A run is left out while the one before still runs; of those missed one is made up for."),
    Field("job", "true, or {retries, time_limit}", "-", "Run to completion instead of serving, once after each deploy (or by `schedule`). `time_limit`: 1h unless said."),
)  # fmt: skip
APP_KEYS = (
    "image", "command", "port", "env", "secrets", "config_files", "health", "rollout", "volumes", "public", "domains",
    "isolation", "egress", "egress_tier", "schedule", "job",
)  # fmt: skip


class AppReader(Reader):
    """Reads one app; what is wrong is said with its line."""

    def app(self, tree: Branch, name: str) -> tuple[AppSpec, int]:
        """The app, and how many requests at once one instance should carry."""
        source, image = self.source(tree, name, "app", "a directory such as ./api"), self.image(tree, name)
        if source and image:
            self.wrong(tree.lines["image"], f"{name}.image", "either `app` or `image`, not both")
        target = self.group(
            tree, name, "target",
            {"in_flight": (APP_IN_FLIGHT, whole(1, 10_000)), "rps": (None, a_number(0.01, 1e6)),
             "p95_ms": (None, a_number(1, 600_000)), "cpu": (None, a_number(0.01, 1024))},
        )  # fmt: skip
        egress = self.texts(tree, name, "egress")
        health = self.group(
            tree, name, "health",
            {"path": (None, _health_path), "grace": (5.0, a_time(0.1, 3600.0)), "interval": (60.0, a_time(1.0, DAY_S)),
             "timeout": (5.0, a_time(0.1, 600.0)), "failures": (3, whole(1, 100))},
        )  # fmt: skip
        job = self.job(tree, name)
        schedule = self.leaf(tree, name, "schedule", "", _cron)
        app = AppSpec(
            source=source,
            image=image,
            command=self.command(tree, name),
            port=self.leaf(tree, name, "port", PORT, whole(1, 65535)),
            environment=self.environment(tree, name),
            secrets=tuple(self.each(tree, name, "secrets", a_name)),
            config_files=self.config_files(tree, name),
            health=Health(health["path"], health["grace"], health["interval"], health["timeout"], health["failures"]),
            rollout=Rollout(self.leaf(tree, name, "rollout", "rolling", one_of(tuple(way.value for way in Rollout)))),
            target=Target(
                target["rps"], target["p95_ms"] / 1000 if target["p95_ms"] is not None else None, target["cpu"]
            ),
            volumes=self.volumes(tree, name),
            public=self.leaf(tree, name, "public", False, boolean),
            domains=tuple(self.each(tree, name, "domains", _domain)),
            isolation=Tier(self.leaf(tree, name, "isolation", "namespace", one_of(("namespace", "gvisor")))),
            egress=egress,
            egress_tier=self.leaf(tree, name, "egress_tier", "proxy", one_of(("proxy", "packet"))),
            disk_bytes=self.app_limits(tree, name)["disk"],
            schedule=schedule,
            job=job or (Job() if schedule else None),
        )
        given = [name for name, _ in app.environment] + [secret_variable(secret) for secret in app.secrets]
        for variable in sorted({variable for variable in given if given.count(variable) > 1}):
            self.wrong(tree.lines.get("secrets", tree.line), f"{name}.secrets", f"{variable} is set twice, by `env` and a secret")  # fmt: skip
        return app, target["in_flight"]

    def app_resources(self, tree: Branch, name: str) -> Resources:
        found = self.app_limits(tree, name)
        return Resources(found["memory"], found["cpu"])

    def app_limits(self, tree: Branch, name: str) -> dict[str, Any]:
        bounds = {"memory": (None, _memory), "cpu": (0.0, a_number(0.1, 1024)), "disk": (None, _disk)}
        before = len(self._problems)
        found = self.group(tree, name, "resources", bounds)
        self._problems[before:] = dict.fromkeys(self._problems[before:])  # read twice, told once
        return found

    def source(self, tree: Branch, name: str, key: str, such: str) -> str:
        given = tree.entries.get(key)
        if given is None:
            return ""
        if isinstance(given, Branch):
            self.unknown(given, ("source",), f"{name}.{key}.")
            return str(self.leaf(given, f"{name}.{key}", "source", "", _text))
        if isinstance(given, Leaf) and isinstance(given.value, str) and given.value.strip():
            return given.value
        self.wrong(given.line, f"{name}.{key}", f"must be {such}")
        return ""

    def image(self, tree: Branch, name: str) -> str:
        found = self.source(tree, name, "image", "an image such as ./api.tar, or docker://NAME")
        if found.startswith("docker:") and not _REFERENCE.fullmatch(found):
            self.wrong(tree.lines["image"], f"{name}.image", f"{found!r} names no image; write docker://HOST/NAME:TAG")
        return found

    def command(self, tree: Branch, name: str) -> tuple[str, ...]:
        given = tree.entries.get("command")
        if isinstance(given, Row):
            return tuple(self.each(tree, name, "command", _word))
        text = self.leaf(tree, name, "command", "", _word)
        return ("/bin/sh", "-c", text) if text else ()

    def environment(self, tree: Branch, name: str) -> tuple[tuple[str, str], ...]:
        found = []
        for key, line, value in self.pairs(tree, name, "env"):
            if not _VARIABLE.fullmatch(key):
                self.wrong(line, f"{name}.env.{key}", "is no name for a variable: letters, digits and _")
            elif key in OWN_VARIABLES:
                self.wrong(line, f"{name}.env.{key}", "is set by Bastide itself")
            elif (wrong := _word_problem(f"{key}={value}")) is not None:
                self.wrong(line, f"{name}.env.{key}", wrong)
            else:
                found.append((key, value))
        if sum(len(f"{key}={value}".encode()) for key, value in found) > TEXT_BYTES_MAX:
            self.wrong(
                tree.lines["env"], f"{name}.env", "holds more than 256 KiB; lay what is large down as `config_files`"
            )
        return tuple(found)

    def config_files(self, tree: Branch, name: str) -> tuple[ConfigFile, ...]:
        found = []
        for key, line, value in self.pairs(tree, name, "config_files"):
            path = key if key.startswith("/") else f"/etc/app/{key}"
            if (
                ".." in path.split("/")
                or "\0" in path
                or path.startswith(("/proc/", "/sys/", "/dev/", "/usr/", "/run/bastide/"))
            ):
                self.wrong(line, f"{name}.config_files", f"{key!r} can't be laid there")
            found.append(ConfigFile(path, value))
        if sum(len(file.text.encode()) for file in found) > TEXT_BYTES_MAX:
            self.wrong(
                tree.lines["config_files"],
                f"{name}.config_files",
                "hold more than 256 KiB; put them into the directory",
            )
        return tuple(found)

    def volumes(self, tree: Branch, name: str) -> tuple[Volume, ...]:
        given = tree.entries.get("volumes")
        if given is None:
            return ()
        if not isinstance(given, Row):
            self.wrong(given.line, f"{name}.volumes", "must be a list of {name, path, size}")
            return ()
        found = []
        for item in given.items:
            where = f"{name}.volumes"
            if not isinstance(item, Branch):
                self.wrong(item.line, where, "must be {name: …, path: /…, size: …}")
                continue
            self.unknown(item, ("name", "path", "size"), f"{where}.")
            label = self.leaf(item, where, "name", None, a_name)
            path = self.leaf(item, where, "path", None, _absolute)
            if label is None or path is None:
                self.wrong(item.line, where, "needs `name:` and `path:`")
                continue
            found.append(Volume(label, path, self.leaf(item, where, "size", None, _volume_size)))
        for part in ("name", "path"):
            values = [getattr(volume, part) for volume in found]
            if len(set(values)) < len(values):
                self.wrong(given.line, f"{name}.volumes", f"two volumes have the same {part}")
        return tuple(found)

    def job(self, tree: Branch, name: str) -> Job | None:
        given = tree.entries.get("job")
        if given is None:
            return None
        if isinstance(given, Leaf):
            return Job() if self.leaf(tree, name, "job", False, boolean) else None
        found = self.group(
            tree,
            name,
            "job",
            {"retries": (0, whole(0, JOB_RETRIES_MAX)), "time_limit": (3600.0, a_time(1.0, 7 * DAY_S))},
        )
        return Job(found["retries"], found["time_limit"])

    def pairs(self, tree: Branch, name: str, key: str) -> list[tuple[str, int, str]]:
        given = tree.entries.get(key)
        if given is None:
            return []
        if not isinstance(given, Branch):
            self.wrong(given.line, f"{name}.{key}", "must be a mapping of names to values")
            return []
        return [
            (entry, given.lines[entry], self.leaf(given, f"{name}.{key}", entry, "", _scalar))
            for entry in given.entries
        ]

    def texts(self, tree: Branch, name: str, key: str) -> tuple[str, ...]:
        return tuple(self.each(tree, name, key, _text))

    def each(self, tree: Branch, name: str, key: str, parse_value: Any) -> list[Any]:
        given = tree.entries.get(key)
        if given is None:
            return []
        items: tuple[Tree, ...] = given.items if isinstance(given, Row) else ()
        if not isinstance(given, Row):
            self.wrong(given.line, f"{name}.{key}", "must be a list")
        found = []
        for item in items:
            try:
                if not isinstance(item, Leaf):
                    raise ValueError("must be a list of single values")
                found.append(parse_value(item.value))
            except ValueError as error:
                self.wrong(item.line, f"{name}.{key}", str(error))
        return found


def _text(value: Any) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool) or not str(value).strip():
        raise ValueError(f"{value!r} is no text")
    return str(value)


def _word(value: Any) -> str:
    text = _text(value)
    if (wrong := _word_problem(text)) is not None:
        raise ValueError(wrong)
    return text


def _word_problem(text: str) -> str | None:
    """Why no program can be given this as an argument, or as a variable; None: it can."""
    if "\0" in text:
        return "holds a zero byte, which no program can be given; leave it out"
    if len(text.encode(errors="surrogatepass")) >= WORD_BYTES_MAX:
        return "is over 128 KiB, which no program can be given; lay it into a file by `config_files`, or into the directory"
    return None


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _absolute(value: Any) -> str:
    path = str(value)
    if (
        not path.startswith("/")
        or ".." in path.split("/")
        or "\0" in path
        or path.rstrip("/") in ("", "/app", "/proc", "/dev", "/usr", "/run/bastide")
    ):
        raise ValueError(f"{value!r} must be an absolute path of its own, such as /data")
    return path.rstrip("/")


def _health_path(value: Any) -> str:
    if not re.fullmatch(r"/[!-~]{0,500}", str(value)):
        raise ValueError(f"{value!r} is no path such as /health")
    return str(value)


def _domain(value: Any) -> str:
    domain = str(value).lower().rstrip(".")
    if not _DOMAIN.fullmatch(domain) or "." not in domain:
        raise ValueError(f"{value!r} is no host name such as api.example.org")
    return domain


def _size(value: Any) -> int:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a size; write 512MiB or 6GiB")
    return parse_bytes(value)


def _memory(value: Any) -> int | None:
    size = memory(value)
    if size is not None and size < MEMORY_BYTES_MIN:
        raise ValueError(f"{value!r} is too little for an app to start in; write 64MiB or more, or leave it out")
    return size


def _disk(value: Any) -> int:
    size = _size(value)
    if size < DISK_BYTES_MIN:
        raise ValueError(f"{value!r} is too little; write 1MiB or more, or leave it out for no limit")
    return size


def _volume_size(value: Any) -> int:
    size = _size(value)
    if not VOLUME_BYTES_MIN <= size <= VOLUME_BYTES_MAX:
        raise ValueError(f"{value!r} is no size for a volume; from 8 MiB to 16 TiB")
    return size


def _cron(value: Any) -> str:
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    try:
        CronSim(str(value), datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"{value!r} is no cron line ({error}); write for example '0 3 * * *'") from None
    return str(value)
