"""The builder: a source and a command in, a Build out; the same input is built once. Owns the directory of builds.

Safe to be killed at any line: everything is made beside its place and put there by one rename. What nobody needs any
more is collected.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec

from bastide.adapters.isolation.roots import foreign_interpreter
from bastide.builds import images, tools
from bastide.builds.detect import Found, checked, detect
from bastide.builds.sources import Sources
from bastide.domain.apps import AppSpec, Build, build_inputs
from bastide.domain.errors import BastideError, InvalidRequest, NotFound, Unavailable
from bastide.domain.units import format_bytes, format_duration
from bastide.ports.builds import BuildProgress, Builds, Collected

FORMAT = 1  # of what a key stands for: raised when builds are made differently
LOG_BYTES_MAX = 256 * 1024
SHOWN_SOURCE, SHOWN_VENV, SHOWN_MODULES = "/app", "/venv", "/node_modules"


class Builder(Builds):
    """`directory`: everything lies below it. `interpreter`: (program, what it needs to be seen) of the Python for apps."""

    def __init__(self, directory: Path, interpreter: tuple[str, tuple[str, ...]]) -> None:
        self._directory = directory
        self._program, self._needs = interpreter
        self._sources = Sources(directory / "sources")
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._resolved: dict[tuple[object, ...], Build] = {}
        for name in ("sources", "venvs", "modules", "roots", "records", "logs"):
            (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in directory.glob("*/*.part-*"):  # left by a kill; nobody else builds here
            shutil.rmtree(part, ignore_errors=True)
            with contextlib.suppress(OSError):
                part.unlink()

    # --- the port --------------------------------------------------------------------------------------------------

    def has_source(self, digest: str) -> bool:
        if not self._sources.has(digest):
            return False
        with contextlib.suppress(OSError):
            os.utime(self._sources.path(digest))  # somebody counts on it: it is not collected now
        return True

    def take_source(self, digest: str, tar: BinaryIO) -> int:
        return self._sources.take(digest, tar)

    def resolve(self, app: AppSpec) -> Build | None:
        known = self._resolved.get(build_inputs(app))
        if known is not None:
            return known
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            build = msgspec.json.decode(self._record(app).read_bytes(), type=Build)
            if all(os.path.isdir(path) for path in (build.source, *(mount for mount, _ in build.mounts))):
                self._resolved[build_inputs(app)] = build
                return build
        return None

    def build(self, app: AppSpec, progress: BuildProgress) -> Build:
        with self._lock:
            lock = self._locks.setdefault(self._name(app), threading.Lock())
        with lock:
            known = self.resolve(app)
            if known is not None:
                return known
            return self._built(app, progress)

    def log(self, app: AppSpec) -> str:
        try:
            return self._log(app).read_text(errors="replace")[-LOG_BYTES_MAX:]
        except OSError:
            return ""

    def collect(self, used: Iterable[AppSpec], kept_s: float) -> Collected:
        """Records of unused apps first, then what no record names any more."""
        names = {self._name(app) for app in used}
        removed = given_back = 0
        before_s = time.time() - kept_s
        named: set[str] = set()
        for record in (self._directory / "records").glob("*.json"):
            if record.stem not in names and record.stat().st_mtime < before_s:
                record.unlink(missing_ok=True)
                (self._directory / "logs" / f"{record.stem}.log").unlink(missing_ok=True)
                continue
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                build = msgspec.json.decode(record.read_bytes(), type=Build)
                named |= {
                    build.source,
                    *(os.path.dirname(path) if path.endswith("/node_modules") else path for path, _ in build.mounts),
                }
        self._resolved.clear()
        used_sources = {(app.source or app.image).partition(":")[2] for app in used}
        for kind in ("sources", "venvs", "modules", "roots"):
            for path in (self._directory / kind).iterdir():
                if ".part-" in path.name or str(path) in named or path.name in used_sources:
                    continue
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < before_s:
                        given_back += _size(path)
                        gone = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
                        path.rename(gone)
                        shutil.rmtree(gone, ignore_errors=True)
                        removed += 1
        return Collected(removed, given_back)

    # --- building --------------------------------------------------------------------------------------------------

    def _built(self, app: AppSpec, progress: BuildProgress) -> Build:
        uploaded = app.source or app.image
        if not images.is_reference(uploaded) and not self._sources.has(uploaded):
            raise NotFound("its source is not on this node; `bastide deploy` uploads it")
        began = time.monotonic()
        log = self._log(app).open("w")
        left = LOG_BYTES_MAX

        def say(line: str) -> None:
            nonlocal left
            if left > 0:
                log.write(line[:2000] + "\n")
                log.flush()
                left -= len(line)
            progress(line[:300])

        try:
            if app.image:
                build = self._unpacked(app, say)
            else:
                source = self._sources.path(app.source)
                found = detect(source, app.command)
                say(found.reason)
                build = self._assembled(app, found, source, say)
            say(f"built in {format_duration(time.monotonic() - began)}, {format_bytes(build.build_bytes)}")
        except BastideError as error:
            log.write(f"failed: {error.message}\n")
            raise
        except OSError as error:
            raise Unavailable(f"the app can't be built: {error.strerror or error}") from None
        finally:
            log.close()
        record = self._record(app)
        fresh = record.with_suffix(f".part-{secrets.token_hex(4)}")
        fresh.write_bytes(msgspec.json.encode(build))
        fresh.replace(record)
        self._resolved[build_inputs(app)] = build
        return build

    def _assembled(self, app: AppSpec, found: Found, source: Path, say: tools.Say) -> Build:
        mounts: list[tuple[str, str]] = []
        path: tuple[str, ...] = (os.path.dirname(self._program),)
        environment: tuple[tuple[str, str], ...] = ()
        if found.kind == "python":
            search = "/app:/app/src" if (source / "src").is_dir() else "/app"
            environment = (("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1"), ("PYTHONPATH", search))
            if found.requirements is not None or found.lock_file:
                venv = self._venv(found, source, say)
                mounts.append((str(venv), SHOWN_VENV))
                path = (f"{SHOWN_VENV}/bin", *path)
                environment += (("VIRTUAL_ENV", SHOWN_VENV),)
        elif found.kind == "node":
            tools.node()
            environment = (("NODE_ENV", "production"),)
            if found.node_modules:
                mounts.append((str(self._modules(source, say) / "node_modules"), SHOWN_MODULES))
                path = (f"{SHOWN_MODULES}/.bin", *path)
        size = _size(source) + sum(_size(Path(directory)) for directory, _ in mounts)
        key = _key(app.source, [list(mount) for mount in mounts], list(found.argv), list(environment))
        return Build(key, found.kind, found.reason, str(source), found.argv, tuple(mounts), path, environment, size)

    def _unpacked(self, app: AppSpec, say: tools.Say) -> Build:
        """An image: its root is kept by the digest of its manifest."""
        foreign_interpreter()  # raises where no root but the host's can be run
        work = self._directory / "roots" / f"work.part-{secrets.token_hex(4)}"
        work.mkdir(mode=0o700)
        try:
            source = None if images.is_reference(app.image) else self._sources.path(app.image)
            made, facts = images.unpack(app.image, source, work, say)
            target = self._directory / "roots" / facts.digest.partition(":")[2]
            _put(made, target)
            os.utime(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        argv = app.command or facts.argv
        if not argv:
            raise InvalidRequest("the image does not say what to run; say `command:` (on the command line: --command)")
        names = dict(facts.environment)
        path = tuple(names.pop("PATH", "").split(":")) if names.get("PATH") else ()
        exposed = f", listens on {facts.port}" if facts.port is not None else ""
        reason = f"an image{exposed}; " + ("the command was given" if app.command else f"runs {' '.join(argv)[:200]}")
        say(reason)
        return Build(
            _key(facts.digest, list(argv)), "image", reason, str(target), argv, (), path, tuple(names.items()),
            _size(target), str(target), facts.directory, facts.port, facts.writes,
        )  # fmt: skip

    def _venv(self, found: Found, source: Path, say: tools.Say) -> Path:
        lines, cache = found.requirements or (), self._directory / "cache"
        if found.lock_file:
            work = self._directory / "venvs" / f"export.part-{secrets.token_hex(4)}"
            lines = tuple(checked(line, "uv.lock") for line in tools.exported(source, work, cache, say))
        key = _key("venv", self._program, sys.version, sorted(lines))
        target = self._directory / "venvs" / key
        if target.is_dir():
            say(f"{len(lines)} requirements are installed already")
            os.utime(target)
            return target
        part = target.with_name(f"{key}.part-{secrets.token_hex(4)}")
        say(f"installing {len(lines)} requirements")
        try:
            tools.make_venv(part, self._program, lines, cache, say)
            part.chmod(0o755)
            return _put(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _modules(self, source: Path, say: tools.Say) -> Path:
        given = [
            (source / name).read_text() if (source / name).is_file() else ""
            for name in ("package.json", "package-lock.json")
        ]
        key = _key("modules", *given)
        target = self._directory / "modules" / key
        if target.is_dir():
            say("its modules are installed already")
            os.utime(target)
            return target
        part = target.with_name(f"{key}.part-{secrets.token_hex(4)}")
        say("installing its modules")
        try:
            tools.install_modules(source, part, self._directory / "npm", say)
            part.chmod(0o755)
            return _put(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _name(self, app: AppSpec) -> str:
        return _key(self._program, *[list(part) if isinstance(part, tuple) else part for part in build_inputs(app)])

    def _record(self, app: AppSpec) -> Path:
        return self._directory / "records" / f"{self._name(app)}.json"

    def _log(self, app: AppSpec) -> Path:
        return self._directory / "logs" / f"{self._name(app)}.log"


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:40]


def _put(part: Path, target: Path) -> Path:
    try:
        part.rename(target)
    except OSError:
        if not target.is_dir():  # else somebody else was faster with the same
            raise
    return target


def _size(directory: Path) -> int:
    """Bytes of its files, each inode once."""
    seen: set[int] = set()
    total = 0
    for base, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(base, name))
                if status.st_ino not in seen:
                    seen.add(status.st_ino)
                    total += status.st_size
    return total
