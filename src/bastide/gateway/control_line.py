"""The line to control: tables come in, budget slices are asked for, load is told. Owns the cached table on disk.

Control may be away for any time; nothing here makes a request wait for it but a budget that must be asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os

import msgspec

from bastide.domain.routes import RoutingTable
from bastide.gateway.application import Gateway
from bastide.gateway.directory import read_cached, without_secrets
from bastide.gateway.links import ConnectLink, SteadyLink
from bastide.gateway.settings import GatewaySettings
from bastide.ports.link import Body, Link, Notify

_log = logging.getLogger("bastide.gateway")
_SLICE_WAIT_S = 2.0
_CACHE_AFTER_S = 0.2
_FIRST_TABLE_S, _ANY_TABLE_S = 2.0, 20.0


class ControlLine:
    def __init__(self, settings: GatewaySettings, connect: ConnectLink) -> None:
        self._settings = settings
        self._line = SteadyLink(settings.control_link, self._me, self._asked, connect)
        self._line.came = self._came
        self._gateway: Gateway | None = None
        self._is_new = True
        self._told: Body = {}
        self._to_cache: RoutingTable | None = None
        self._caching: asyncio.TimerHandle | None = None
        self._heard = asyncio.Event()
        self._has_cached = False

    def _me(self) -> Body:
        settings = self._settings
        return {
            "role": "gateway",
            "worker": settings.worker,
            "incarnation": settings.incarnation,
            "rank": settings.rank,
            "count": settings.count,
        }

    def attach(self, gateway: Gateway) -> None:
        """Serve by the cached table until control says otherwise."""
        self._gateway = gateway
        cached = read_cached(self._settings.table_cache)
        if cached is not None:
            gateway.apply(cached)
            self._has_cached = True

    async def run(self) -> None:
        await self._line.run()

    async def first_table(self) -> None:
        """Wait for control's word where control is there: the cached table may be older than what was promised.

        Without any table nothing could be served: then connects are better off waiting in the backlog, for a while.
        """
        events = (self._heard, self._line.missed) if self._has_cached else (self._heard,)
        waiting = [asyncio.ensure_future(event.wait()) for event in events]
        wait_s = _FIRST_TABLE_S if self._has_cached else _ANY_TABLE_S
        await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        for event in waiting:
            event.cancel()

    async def ask_slice(self, body: Body) -> Body:
        """Raises LinkLost where control is away."""
        async with asyncio.timeout(10 * _SLICE_WAIT_S):
            return await self._line.call("slice", body | {"incarnation": self._settings.incarnation}, _SLICE_WAIT_S)

    def tell_load(self) -> None:
        if self._gateway is not None and self._line.is_up:
            load = self._gateway.load()
            if load != self._told:
                self._told = load
                self._line.tell("load", load)

    def close(self) -> None:
        if self._caching is not None:
            self._caching.cancel()
            self._cache()

    def _came(self) -> None:
        # A control that was restarted may count its revisions anew: its first table is taken as it is.
        self._is_new = True
        self._told = {}

    async def _asked(self, link: Link, verb: str, body: Body, notify: Notify) -> Body:
        if verb == "routes":
            try:
                table = msgspec.convert(body, RoutingTable)
            except msgspec.ValidationError as error:
                _log.error("a routing table can't be read and is not used: %s", error)
                return {}
            self._take(table)
        return {}

    def _take(self, table: RoutingTable) -> None:
        gateway = self._gateway
        if gateway is None or (not self._is_new and table.revision <= gateway.directory.table.revision):
            return
        self._is_new = False
        gateway.apply(table)
        self._heard.set()
        self._to_cache = table
        if self._caching is None:
            self._caching = asyncio.get_running_loop().call_later(_CACHE_AFTER_S, self._cache)

    def _cache(self) -> None:
        self._caching = None
        if self._to_cache is None:
            return
        # Every worker writes the same file: each its own draft, the last rename wins whole.
        draft = f"{self._settings.table_cache}.{os.getpid()}"
        try:
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(file, "wb") as out:
                out.write(msgspec.json.encode(without_secrets(self._to_cache)))
            os.replace(draft, self._settings.table_cache)
        except OSError as error:
            _log.error("the routing table can't be kept for a restart: %s", error.strerror or error)
        self._to_cache = None
