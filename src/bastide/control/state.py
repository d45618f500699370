"""What the control process holds: the loop, the store, keys in memory, gateways on the line, and what they last said."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from bastide.control import apps, sandboxkeys
from bastide.control.jobs import Jobs
from bastide.control.loop import ControlLoop
from bastide.control.routing import table
from bastide.control.settings import ControlSettings
from bastide.domain.errors import BastideError, InvalidRequest, NotFound
from bastide.domain.identity import DEFAULT_PROJECT
from bastide.domain.keys import KEY_PREFIX, KeyGrant, hash_key
from bastide.domain.routes import RoutingTable
from bastide.engines.port import Translator
from bastide.ports.builds import Builds
from bastide.ports.clock import Clock
from bastide.ports.link import Body, Link, LinkLost, Notify
from bastide.ports.store import Store
from bastide.ports.vault import Vault
from bastide.ports.weights import Weights

# Several changes make one push. The first goes out at once; after it comes a pause, longer where tables are dear:
# at most a tenth of the time goes into them, however many services there are and however fast they change.
PUSH_S = 0.02
SANDBOXES_ROLE = "sandboxes"  # what that process says it is, on a line of its own
PUSH_PAUSES = 9.0
PUSH_TAKEN_S_MAX = 2.0
REDIAL_S = 0.2


class Ledger(Protocol):
    """Metering, as control uses it (metering/ provides it; wiring brings the two together)."""

    def fold(self) -> int: ...
    def slice(self, key: KeyGrant, incarnation: str, window_start_s: float, need_pico: int, ask_pico: int) -> int: ...


class NodeLine:
    """The line to the node's agent, dialled again whenever it is lost."""

    def __init__(self) -> None:
        self.link: Link | None = None

    async def call(self, verb: str, body: Body, progress: Notify | None = None) -> Body:
        if self.link is None:
            raise LinkLost("the node's agent is away; it is being started again")
        return await self.link.call(verb, body, progress)


class Control:
    """One location's control. Handlers and links meet here."""

    def __init__(
        self,
        settings: ControlSettings,
        store: Store,
        weights: Weights,
        vault: Vault,
        engines: Mapping[str, Translator],
        ledger: Ledger,
        clock: Clock,
        builds: Builds | None = None,
    ) -> None:
        self.settings, self.store, self.weights, self.vault, self.ledger = settings, store, weights, vault, ledger
        self.engines, self.clock = engines, clock
        self.node = NodeLine()
        self.loop = ControlLoop(
            store, self.node, weights, engines, settings.budget_bytes, self.routes_changed, clock, builds
        )
        self.jobs = Jobs(self)
        self.gateways: dict[Link, dict[str, Any]] = {}
        self.loads: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, KeyGrant] = {grant.key_hash: grant for grant in store.keys()}  # noqa: SIM118
        self._revision = int(clock.now_s() * 1e6)
        self._push = asyncio.Event()
        self._pushing = False

    def now_s(self) -> float:
        """Seconds since the epoch."""
        return self.clock.now_s()

    # --- keys ------------------------------------------------------------------------------------------------------

    def key_by_hash(self, key_hash: str) -> KeyGrant | None:
        return self.keys.get(key_hash)

    def make_key(self, grant: KeyGrant) -> tuple[str, KeyGrant]:
        """A new key and its grant (identifier and hash filled in). The key is shown this once."""
        text = KEY_PREFIX + secrets.token_urlsafe(32)
        made = msgspec.convert(
            {**msgspec.to_builtins(grant), "key_id": "key-" + secrets.token_hex(6), "key_hash": hash_key(text)},
            KeyGrant,
        )
        self.store.add_project(made.project, self.clock.now_s())
        self.store.put_key(made)
        self.keys[made.key_hash] = made
        self.routes_changed()
        return text, made

    def revoke_key(self, key_id: str) -> KeyGrant:
        grant = self.store.revoke_key(key_id, self.clock.now_s())
        self.keys[grant.key_hash] = grant
        sandboxkeys.drop_of_maker(self, key_id)
        self.routes_changed()
        return grant

    def ensure_admin_key(self) -> str | None:
        """At the very first start: the admin key, in clear, once. None where there is one already."""
        if any(grant.admin and grant.revoked_at_s is None for grant in self.keys.values()):
            return None
        grant = KeyGrant(
            "", "", DEFAULT_PROJECT, name="admin", admin=True, deploys=True, created_at_s=self.clock.now_s()
        )
        return self.make_key(grant)[0]

    # --- secrets ---------------------------------------------------------------------------------------------------

    def put_secret(self, project: str, name: str, value: str) -> None:
        self.store.put_secret(project, name, self.vault.seal(value, f"{project}/{name}"), self.clock.now_s())
        self.routes_changed()

    def open_secret(self, project: str, name: str) -> str | None:
        sealed = self.store.secret(project, name)
        return self.vault.open(sealed, f"{project}/{name}") if sealed is not None else None

    # --- gateways --------------------------------------------------------------------------------------------------

    def routes_changed(self) -> None:
        self._push.set()

    def routes(self) -> RoutingTable:
        services = self.loop.services.values()
        return table(self._revision, services, self.keys.values(), self.settings.agent_socket, self.open_secret)

    @property
    def table_is_out(self) -> bool:
        """Whether every gateway on the line serves by what is desired now: only then is a deployment done."""
        return not self._push.is_set() and not self._pushing

    async def table_given(self) -> None:
        """Wait until every gateway on the line serves by what is desired now; for a while, not for ever."""
        watcher = self.loop.watch()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PUSH_TAKEN_S_MAX):
                    while not self.table_is_out:
                        watcher.clear()
                        await watcher.wait()
        finally:
            self.loop.unwatch(watcher)

    async def push_forever(self) -> None:
        """Give every gateway the table whenever it differs, and hear that it serves by it."""
        while True:
            await self._push.wait()
            self._push.clear()
            began_s, self._pushing = self.clock.monotonic_s(), True
            self._revision += 1
            body = msgspec.to_builtins(self.routes())
            await asyncio.gather(*(self._give(link, body) for link in self.gateways))
            self._pushing = False
            self.loop.told()
            await asyncio.sleep(max(PUSH_S, PUSH_PAUSES * (self.clock.monotonic_s() - began_s)))

    async def _give(self, link: Link, body: Body) -> None:
        # A gateway that does not answer gets its table when it is back on the line; nobody waits for it.
        with contextlib.suppress(LinkLost, BastideError, TimeoutError):
            async with asyncio.timeout(PUSH_TAKEN_S_MAX):
                await link.call("routes", body)

    def came(self, link: Link) -> None:
        if link.peer.get("role") == SANDBOXES_ROLE:
            return
        self.gateways[link] = link.peer
        self._revision += 1
        link.tell("routes", msgspec.to_builtins(self.routes()))

    def left(self, link: Link) -> None:
        peer = self.gateways.pop(link, {})
        self.loads.pop(str(peer.get("worker", "")), None)

    async def handle(self, link: Link, verb: str, body: Body, note: Notify) -> Body:
        """Verbs of gateways: `slice`, `load`, `decisions`; and of sandboxes, about their keys."""
        if link.peer.get("role") == SANDBOXES_ROLE:
            if verb == "sandbox key":
                return await sandboxkeys.made(self, body)
            if verb == "drop sandbox keys":
                return sandboxkeys.dropped(self, body)
        if verb == "slice":
            grant = next((key for key in self.keys.values() if key.key_id == body["key_id"]), None)
            if grant is None:
                raise NotFound(f"there is no key {body['key_id']!r}")
            incarnation = str(link.peer.get("incarnation", link.peer.get("worker", "")))
            granted = await asyncio.to_thread(
                self.ledger.slice,
                grant,
                incarnation,
                float(body["window_start_s"]),
                int(body["need_pico"]),
                int(body["ask_pico"]),
            )
            return {"granted_pico": granted}
        if verb == "load":
            self.loads[str(link.peer.get("worker", ""))] = body
            return {}
        if verb == "decisions":
            self.loop.add_decisions(body["decisions"])
            return {}
        raise InvalidRequest(f"control knows no verb {verb!r}")

    # --- the node --------------------------------------------------------------------------------------------------

    async def node_told(self, link: Link, verb: str, body: Body, note: Notify) -> Body:
        """What the agent tells."""
        if verb == "confide":
            return await apps.confide(self, body)
        if verb == "reports":
            self.loop.reported(body["reports"])
            named = [report["instance"] for report in body["reports"]]
            apps.forget_keys_of_the_gone(self, [self.loop.reports[name] for name in named])
        elif verb == "decisions":
            self.loop.add_decisions(body["decisions"])
        elif verb == "facts":
            self.loop.learned(body["facts"])
        elif verb == "forgotten":
            self.loop.forgotten(str(body["instance"]))
            apps.forget_key(self, str(body["instance"]))
        return {}

    async def dial_forever(self, connect: Callable[..., Any]) -> None:
        """Keep the line to the agent."""
        while True:
            with contextlib.suppress(LinkLost):
                link = await connect(self.settings.agent_socket, {"role": "control"}, self.node_told)
                async with asyncio.TaskGroup() as group:
                    reading = group.create_task(link.run())
                    self.node.link = link
                    with contextlib.suppress(LinkLost):
                        await self.loop.node_came()
                    await reading
            self.node.link = None
            self.loop.node_left()
            await asyncio.sleep(REDIAL_S)
