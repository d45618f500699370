"""What is said to the engine of a model over its socket: is it well, what did it count, its canary, its prompt caches.

Tells apart an engine that is silent from one that answers garbage. Requests of users never pass here.
"""

from __future__ import annotations

from collections.abc import Mapping

from bastide.adapters.runtime import promptcache
from bastide.adapters.runtime.http import ask
from bastide.domain.errors import EngineGarbage, EngineLost
from bastide.domain.instances import EngineCounters, LaunchSpec
from bastide.engines.port import Ask, Engine, Translator

ANSWER_S_MAX = 30.0
HEALTH_S_MAX = 5.0


class EngineTalk:
    """`engines`: translators by name."""

    def __init__(self, engines: Mapping[str, Translator]) -> None:
        self._engines = engines

    async def healthy(self, launch: LaunchSpec) -> bool:
        """Whether it says that it is ready; silence is a no."""
        try:
            status, _ = await ask(launch.socket, launch.secret, self._model(launch).health(), HEALTH_S_MAX)
        except (OSError, ValueError, TimeoutError):
            return False
        return status == 200

    async def counters(self, launch: LaunchSpec) -> EngineCounters | None:
        """What it counted since it began; None where it doesn't say."""
        model = self._model(launch)
        status, body = await self._ask(launch, model.metrics())
        return model.counters(body.decode(errors="replace")) if status == 200 else None

    async def canary(self, launch: LaunchSpec) -> tuple[str, EngineCounters]:
        """The comparable part of its answer to the canary, and what that cost."""
        model = self._model(launch)
        status, body = await self._ask(launch, model.canary(launch.embeddings))
        if status != 200:
            raise EngineGarbage(f"the engine answered its canary with status {status}: {body[:200]!r}")
        try:
            return model.canary_answer(body)
        except ValueError as error:
            raise EngineGarbage(str(error)) from None

    async def save(self, launch: LaunchSpec) -> None:
        """Keep its prompt caches, where it can."""
        await promptcache.save(launch, self._model(launch), lambda asked: self._ask(launch, asked))

    async def restore(self, launch: LaunchSpec) -> None:
        """Give it back the prompt caches that were kept."""
        await promptcache.restore(launch, self._model(launch), lambda asked: self._ask(launch, asked))

    def _model(self, launch: LaunchSpec) -> Engine:
        """What speaks to the engine of a model. An app has none: it is asked whether it is well."""
        found = self._engines[launch.engine]
        assert isinstance(found, Engine)
        return found

    async def _ask(self, launch: LaunchSpec, request: Ask) -> tuple[int, bytes]:
        try:
            return await ask(launch.socket, launch.secret, request, ANSWER_S_MAX)
        except TimeoutError:
            raise EngineLost(f"the engine did not answer {request.path} within {ANSWER_S_MAX:.0f} s") from None
        except OSError as error:
            raise EngineLost(f"the engine can't be reached: {error.strerror or error}") from None
        except ValueError as error:
            raise EngineGarbage(f"the engine answered {request.path} with garbage: {error}") from None
