"""Questions to the agent in an app's box, for its runtime and for who looks into it."""

from __future__ import annotations

import asyncio
from typing import Any

from bastide.adapters.isolation.line import AgentLine
from bastide.adapters.isolation.tree import connect_path
from bastide.domain.errors import BastideError, EngineGarbage, EngineLost, InvalidRequest
from bastide.inside import wire

ANSWER_S_MAX = 10.0


class BoxLine(AgentLine):
    """See AgentLine. A fault of the box is the engine's."""

    @staticmethod
    def gone(what: str) -> BastideError:
        return EngineLost(f"the box went away while it was {what}")

    @staticmethod
    def nonsense() -> BastideError:
        return EngineGarbage("the agent in the box talks nonsense")

    @classmethod
    def wrong(cls, told: dict[str, Any]) -> BastideError:
        return InvalidRequest(f"inside: {told.get('error')}: {str(told.get('message'))[:500]}")


async def opened(path: str, question: dict[str, Any]) -> BoxLine:
    """To the agent at the socket `path`. Raises OSError where nobody listens."""
    return await BoxLine.open(*connect_path(path), question)


async def ask(path: str, question: dict[str, Any], limit_s: float = ANSWER_S_MAX) -> dict[str, Any]:
    """One question, one answer. Raises OSError (TimeoutError among them) where nobody answers."""
    async with asyncio.timeout(limit_s):
        line = await opened(path, question)
        try:
            return await line.answer()
        finally:
            line.close()


async def write_file(path: str, target: str, data: bytes, mode: int) -> None:
    """Lay a file into the box. Raises as `ask`."""
    async with asyncio.timeout(ANSWER_S_MAX):
        line = await opened(path, {"op": "write", "path": target, "mode": mode})
        try:
            await line.send(wire.DATA, data)
            await line.send(wire.END)
            await line.answer()
        finally:
            line.close()
