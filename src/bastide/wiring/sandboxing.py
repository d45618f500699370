"""Entry of the sandboxes' process: put together, recovered, served. Started when it is first needed, and told its sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from bastide.adapters.calm import calm
from bastide.adapters.clock import SystemClock
from bastide.adapters.isolation.folders import interpreter
from bastide.adapters.journal.file import FileJournalWriter
from bastide.adapters.link.unix import connect
from bastide.adapters.runtime.keeperlink import KeeperLink
from bastide.adapters.vault.aead import FileKeyVault
from bastide.domain.errors import InvalidRequest
from bastide.domain.isolation import Tier, TierReport
from bastide.domain.lifecycle import Rung
from bastide.egress.exits import Exits
from bastide.egress.sets import sets
from bastide.ports.link import Body, Link, Notify
from bastide.sandboxes.boxes import Boxes
from bastide.sandboxes.doors import HEAD_BYTES_MAX, Doors
from bastide.sandboxes.house import House
from bastide.sandboxes.http.application import application
from bastide.sandboxes.keys import AskControl, Keys
from bastide.sandboxes.meter import SandboxMeter
from bastide.sandboxes.records import Records
from bastide.sandboxes.settings import SandboxSettings
from bastide.sandboxes.templates import Templates
from bastide.sandboxes.tokens import Tokens
from bastide.wiring.isolation import dissolve, isolations
from bastide.wiring.launch import Launch
from bastide.wiring.places import Places

_log = logging.getLogger("bastide.sandboxes")


def run(
    launch: Launch, places: Places, http_fd: int, doors_fd: int, until_told: Callable[[object], Awaitable[None]]
) -> None:
    """Until told to end."""
    import uvicorn
    import uvloop

    class _QuietServer(uvicorn.Server):
        """Without its clock: it looks ten times a second whether to end, and here it is cancelled instead."""

        async def main_loop(self) -> None:
            await asyncio.Event().wait()

    async def serve() -> None:
        tiers, reports = await asyncio.to_thread(isolations, places, "sandboxes")
        for report in reports:
            _log.info("tier %s: %s (%s)", report.tier.value, "holds" if report.holds else "refused", report.detail)
        holder: list[House] = []
        boxes = Boxes(
            lambda news: KeeperLink(places.boxes_keeper_socket, news), tiers, str(places.logs), launch.lease_s,
            lambda name, reason: holder[0].lost(name, reason),
        )  # fmt: skip
        house = _house(launch, places, boxes, reports)
        holder.append(house)
        config = uvicorn.Config(
            calm(application(house)), log_level="warning", access_log=False, lifespan="off", loop="none",
            timeout_graceful_shutdown=2, timeout_keep_alive=3600, date_header=False,
        )  # fmt: skip
        server = _QuietServer(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        listener = socket.socket(fileno=http_fd)
        doors = Doors(house)

        async def work() -> None:
            await house.recover()
            leads = await asyncio.start_unix_server(
                doors.came, sock=socket.socket(fileno=doors_fd), limit=HEAD_BYTES_MAX
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(house.run())
                group.create_task(server._serve(sockets=[listener]))
                group.create_task(leads.serve_forever())

        try:
            await until_told(work())
        finally:
            # Told to end, it ends its sandboxes; killed, they live on for the next to adopt.
            with contextlib.suppress(Exception):
                await house.close(end_boxes=True)
                dissolve(places, "sandboxes")

    uvloop.run(serve())


def _house(launch: Launch, places: Places, boxes: Boxes, reports: tuple[TierReport, ...]) -> House:
    clock = SystemClock()
    enforces = next((report.limits for report in reports if report.tier is Tier.NAMESPACE), frozenset())
    settings = SandboxSettings(
        node=launch.node,
        url=launch.url,
        memory_budget_bytes=launch.sandbox_memory_bytes,
        spares=launch.sandbox_spares,
        light=Rung.LIGHT.value in launch.rungs,
        enforces=enforces,
    )
    records = Records(places.sandboxes)
    address = urlsplit(launch.url)
    bastide = (address.hostname or "127.0.0.1", address.port or 80) if address.scheme == "http" else None
    journal = FileJournalWriter(places.journals, f"sandboxes-{secrets.token_hex(5)}")
    return House(
        settings,
        boxes,
        records,
        Templates(interpreter(), places.templates),
        Exits(places.egress / "s", sets(launch.egress_sets), bastide),
        SandboxMeter(launch.node, journal),
        FileKeyVault(str(places.sandboxes / "environments.key")),
        Tokens(places.sandboxes / "addresses.key", clock),
        reports,
        clock,
        Keys(_ask_control(places)),
    )


def _ask_control(places: Places) -> AskControl:
    """A line for one question: few sandboxes need a key, and control may be another one by the next."""

    async def ask(verb: str, body: Body) -> Body:
        line = await connect(places.control_socket, {"role": "sandboxes"}, _nothing)
        reading = asyncio.ensure_future(line.run())
        try:
            return await line.call(verb, body)
        finally:
            await line.close()
            await reading

    return ask


async def _nothing(link: Link, verb: str, body: Body, note: Notify) -> Body:
    raise InvalidRequest("nothing is asked this way")
