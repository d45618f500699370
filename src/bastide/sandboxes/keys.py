"""The keys of sandboxes that may reach Bastide. Control makes and drops them; this asks it, and tells it what ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection

from bastide.domain.errors import BastideError, Unavailable
from bastide.domain.sandboxes import EgressRules
from bastide.policy.egress import BASTIDE, BASTIDE_NAME
from bastide.ports.link import Body, LinkLost

ASK_S_MAX = 10.0
URL = f"http://{BASTIDE_NAME}"
NAMES = ("BASTIDE_API_KEY", "OPENAI_API_KEY")

AskControl = Callable[[str, Body], Awaitable[Body]]  # raises LinkLost where it is away


class Keys:
    def __init__(self, ask: AskControl) -> None:
        self._ask = ask
        self._given: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def environment(
        self, sandbox: str, project: str, maker: str, rules: EgressRules, given: Collection[str]
    ) -> dict[str, str]:
        """What programs inside need to call Bastide, where they may and were not `given` a key. Raises Unavailable."""
        if BASTIDE not in rules.allow:
            return {}
        address = {"BASTIDE_URL": URL, "OPENAI_BASE_URL": f"{URL}/v1"}
        if any(name in given for name in NAMES):
            return {name: value for name, value in address.items() if name not in given}
        try:
            async with asyncio.timeout(ASK_S_MAX):
                made = await self._ask("sandbox key", {"sandbox": sandbox, "project": project, "maker": maker})
        except (LinkLost, TimeoutError):
            raise Unavailable(
                "the control plane is away, and makes the key that this sandbox would have; try again soon, or leave "
                f"{BASTIDE!r} out of egress", retry_after_s=2.0,
            ) from None  # fmt: skip
        self._given.add(sandbox)
        return {**address, **dict.fromkeys(NAMES, str(made["key"]))}

    def drop(self, sandbox: str) -> None:
        """It has ended. Where control does not hear it now, it is told at the next start, or the key expires."""
        if sandbox in self._given:
            self._given.discard(sandbox)
            self._tell({"sandbox": sandbox})

    def keep(self, sandboxes: Collection[str]) -> None:
        """These live; others that had a key do not."""
        self._given |= set(sandboxes)
        self._tell({"kept": sorted(sandboxes)})

    def _tell(self, body: Body) -> None:
        async def tell() -> None:
            with contextlib.suppress(LinkLost, BastideError, TimeoutError):
                async with asyncio.timeout(ASK_S_MAX):
                    await self._ask("drop sandbox keys", body)

        task = asyncio.get_running_loop().create_task(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait until control has been told what it is to be told."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
