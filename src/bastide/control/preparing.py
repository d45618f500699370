"""What a service needs before it can be placed: its weights fetched, its app built. One of each at a time, on threads.

Owns what is there and what is under way. Every way out ends in the loop being told, so that nobody waits for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from bastide.domain.apps import Build, build_inputs
from bastide.domain.errors import BastideError, Unavailable
from bastide.domain.instances import WeightFile
from bastide.domain.plan import DesiredService
from bastide.domain.spec import ServiceSpec
from bastide.domain.units import format_bytes
from bastide.engines.port import Translator
from bastide.ports.builds import Builds
from bastide.ports.clock import Clock
from bastide.ports.weights import Weights

_log = logging.getLogger("bastide.control")
TOLD_EVERY_S = 0.1


class Told(Protocol):
    """The loop, as it hears what came of it."""

    services: dict[tuple[str, str], DesiredService]

    def progress(self, key: tuple[str, str], text: str, fraction: float | None) -> None: ...
    def fail(self, project: str, name: str, reason: str) -> None: ...
    def note(self, spec: ServiceSpec, what: str, reason: str) -> None: ...
    def hint(self) -> None: ...


class Preparations:
    """`files`: weights that are here, by address; `built`: builds, by what they were made from."""

    def __init__(
        self,
        loop: Told,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        weights: Weights,
        engines: Mapping[str, Translator],
        builds: Builds | None,
        budget_bytes: Callable[[], int],
        clock: Clock,
    ) -> None:
        self._loop, self._spawn, self._clock = loop, spawn, clock
        self._weights, self._engines, self._builds, self._budget_bytes = weights, engines, builds, budget_bytes
        self.files: dict[str, WeightFile] = {}
        self.built: dict[tuple[object, ...], Build] = {}
        self._fetching: set[str] = set()
        self._building: set[tuple[object, ...]] = set()

    def look(self, spec: ServiceSpec) -> None:
        """Know what of it is there already. Starts nothing."""
        if spec.model is not None and spec.model.url not in self.files:
            file = self._weights.resolve(spec.model)
            if file is not None:
                self.files[spec.model.url] = file
        if spec.app is not None and self._builds is not None:
            inputs = build_inputs(spec.app)
            if inputs not in self.built and (build := self._builds.resolve(spec.app)) is not None:
                self.built[inputs] = build

    def fetches(self, spec: ServiceSpec) -> bool:
        """Begin, unless it is under way. True where it was begun."""
        if spec.model is None or spec.model.url in self._fetching:
            return False
        self._fetching.add(spec.model.url)
        self._spawn(self._fetch(spec))
        return True

    async def _fetch(self, spec: ServiceSpec) -> None:
        assert spec.model is not None
        url = spec.model.url
        loop = asyncio.get_running_loop()
        told_s = 0.0

        def tell(done_bytes: int, total_bytes: int | None) -> None:
            nonlocal told_s
            if self._clock.monotonic_s() - told_s < TOLD_EVERY_S and done_bytes != total_bytes:
                return
            told_s = self._clock.monotonic_s()
            text = f"fetching weights, {format_bytes(done_bytes)}"
            text += f" of {format_bytes(total_bytes)}" if total_bytes else ""
            fraction = done_bytes / total_bytes if total_bytes else None
            loop.call_soon_threadsafe(self._progress_of_url, url, text, fraction)

        try:
            file = await asyncio.to_thread(self._weights.fetch, spec.model, self._budget_bytes(), tell)
            engine = self._engines["llama.cpp" if spec.engine == "auto" else spec.engine]
            reason = engine.refuses(spec, file)
            if reason is not None:
                self._loop.fail(spec.project, spec.name, reason)
            self.files[url] = file
        except BastideError as error:
            self._fail_all_of(url, error.message)
        except Exception as error:
            # A fault of ours must end the rollout: fetched again at once, it would keep a core busy for ever.
            _log.exception("weights of %s", url)
            self._fail_all_of(url, _own_fault(error))
        finally:
            self._fetching.discard(url)
            self._loop.hint()

    def _waiting_for(self, url: str) -> list[tuple[str, str]]:
        return [
            key for key, service in self._loop.services.items()
            if service.rolling and service.spec.model is not None and service.spec.model.url == url
        ]  # fmt: skip

    def _fail(self, spec: ServiceSpec, reason: str) -> None:
        """Unless something else is desired by now: that is prepared, and fails, for itself."""
        service = self._loop.services.get((spec.project, spec.name))
        if service is not None and service.spec == spec:
            self._loop.fail(spec.project, spec.name, reason)

    def _fail_all_of(self, url: str, reason: str) -> None:
        for key in self._waiting_for(url):
            self._loop.fail(*key, reason)

    def _progress_of_url(self, url: str, text: str, fraction: float | None) -> None:
        for key in self._waiting_for(url):
            self._loop.progress(key, text, fraction)

    def makes(self, spec: ServiceSpec) -> bool:
        """Begin, unless it is under way. True where it was begun."""
        if spec.app is None or build_inputs(spec.app) in self._building:
            return False
        self._building.add(build_inputs(spec.app))
        self._spawn(self._make(spec))
        return True

    async def _make(self, spec: ServiceSpec) -> None:
        app, key = spec.app, (spec.project, spec.name)
        assert app is not None
        loop = asyncio.get_running_loop()
        try:
            if self._builds is None:
                raise Unavailable("apps can't be built here")

            def told(line: str) -> None:
                loop.call_soon_threadsafe(self._loop.progress, key, f"building: {line}", None)

            build = await asyncio.to_thread(self._builds.build, app, told)
            self.built[build_inputs(app)] = build
            self._loop.note(spec, "build", f"{build.reason}; {format_bytes(build.build_bytes)}")
        except BastideError as error:
            self._fail(spec, error.message)
        except Exception as error:
            _log.exception("the build of %s", spec.name)
            self._fail(spec, _own_fault(error))
        finally:
            self._building.discard(build_inputs(app))
            self._loop.hint()


def _own_fault(error: Exception) -> str:
    return f"a fault in Bastide itself, its log has the details: {type(error).__name__}: {error}"
