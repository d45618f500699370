"""One gateway worker, from its start to its end. Owns its event loop, its signals and how it stops.

It stops when told (finishing streams for a bounded time) and when its supervisor is gone; it never outlives both.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import Coroutine
from typing import Any

import uvloop

from bastide.gateway.application import Gateway
from bastide.gateway.client import ClientConnection, Clients
from bastide.gateway.control_line import ControlLine
from bastide.gateway.fleet import Fleet
from bastide.gateway.ledger import Ledger
from bastide.gateway.links import ConnectLink
from bastide.gateway.settings import GatewaySettings
from bastide.gateway.upstream import Pool
from bastide.ports.journal import JournalWriter

_log = logging.getLogger("bastide.gateway")


def run(settings: GatewaySettings, journal: JournalWriter, connect_link: ConnectLink) -> None:
    """Serve until SIGTERM or SIGINT, or until the supervisor is gone. Returns when everything is settled."""
    # What was loaded until now lives for ever: keep the collector from walking through it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    uvloop.run(serve(settings, journal, connect_link))


async def serve(
    settings: GatewaySettings,
    journal: JournalWriter,
    connect_link: ConnectLink,
    stop: asyncio.Event | None = None,
) -> None:
    """What `run` runs. `stop`: set it to end the worker, where signals belong to someone else."""
    stopping = stop or asyncio.Event()
    if stop is None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    pool = Pool()
    ledger = Ledger(journal, settings.incarnation)
    control = ControlLine(settings, connect_link)
    try:
        async with asyncio.TaskGroup() as tasks:
            background: set[asyncio.Task[None]] = set()

            def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
                task = tasks.create_task(work)
                background.add(task)
                task.add_done_callback(background.discard)
                return task

            fleet = Fleet(settings.worker, settings.incarnation, connect_link, pool, spawn, settings.count)
            gateway = Gateway(settings, pool, fleet, ledger, control.ask_slice)
            clients = Clients(gateway, settings.limits)
            control.attach(gateway)
            spawn(control.run())
            await control.first_table()
            server = await _listen(settings, clients)
            door = await _open_door(settings, clients)
            spawn(ledger.keep_synced(settings.sync_s))
            spawn(_tell(settings, fleet, control))
            spawn(_sweep(settings, clients, pool))
            spawn(_end_as_orphan(settings, stopping))
            await stopping.wait()
            server.close()
            if door is not None:
                door.close()
            clients.drain()
            await _drained(clients, settings.drain_s)
            for task in background:
                task.cancel()
    finally:
        pool.close()
        control.close()
        ledger.close()


async def _listen(settings: GatewaySettings, clients: Clients) -> asyncio.Server:
    context = None
    if settings.tls_certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    listener = socket.socket(fileno=os.dup(settings.listen_fd))
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: ClientConnection(clients), sock=listener, ssl=context, backlog=1024)


async def _open_door(settings: GatewaySettings, clients: Clients) -> asyncio.Server | None:
    if settings.door_fd < 0:
        return None
    listener = socket.socket(fileno=os.dup(settings.door_fd))
    listener.setblocking(False)
    return await asyncio.get_running_loop().create_unix_server(lambda: ClientConnection(clients), sock=listener)


async def _drained(clients: Clients, drain_s: float) -> None:
    """Streams under way may end; what is left after `drain_s` is told that the gateway restarts."""
    busy = [task for connection in clients.connections if (task := connection.task) is not None]
    if busy:
        _, late = await asyncio.wait(busy, timeout=drain_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)
    for connection in list(clients.connections):
        connection.close()


async def _tell(settings: GatewaySettings, fleet: Fleet, control: ControlLine) -> None:
    while True:
        await asyncio.sleep(settings.tell_s)
        fleet.tell_activity()
        control.tell_load()


async def _sweep(settings: GatewaySettings, clients: Clients, pool: Pool) -> None:
    limits = settings.limits
    every_s = min(1.0, limits.header_s_max / 4, limits.body_s_max / 4, limits.idle_s_max / 4)
    while True:
        await asyncio.sleep(every_s)
        clients.sweep()
        pool.sweep()


async def _end_as_orphan(settings: GatewaySettings, stopping: asyncio.Event) -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110  nothing tells a process that its parent ended
        await asyncio.sleep(min(1.0, settings.orphan_s / 4))
    _log.warning("the supervisor is gone; this worker ends in %g s", settings.orphan_s)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), settings.orphan_s)
    stopping.set()
