"""Entry of the processes that `bastide up` starts: `python -m bastide.wiring.process ROLE LAUNCH.json [RANK FD]`.

Each role imports only what it needs, so that an idle Bastide stays small.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from bastide.wiring.launch import Launch
from bastide.wiring.places import Places

ORPHAN_S = 60.0


def main() -> None:
    os.umask(0o077)  # nothing we write is anybody else's
    role, file, *rest = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    launch = msgspec.json.decode(Path(file).read_bytes(), type=Launch)
    places = Places(Path(launch.data))
    if role == "agent":
        _agent(launch, places)
    elif role == "control":
        _control(launch, places)
    elif role == "gateway":
        _gateway(launch, places, int(rest[0]), int(rest[1]), int(rest[2]))
    elif role == "sandboxes":
        from bastide.wiring.sandboxing import run

        run(launch, places, int(rest[0]), int(rest[1]), _until_told)
    else:
        sys.exit(f"no role {role!r}")


def _gateway(launch: Launch, places: Places, rank: int, listen_fd: int, door_fd: int) -> None:
    from bastide.adapters.journal.file import FileJournalWriter
    from bastide.adapters.link.unix import connect
    from bastide.gateway.settings import GatewaySettings
    from bastide.gateway.worker import run

    incarnation = f"g{rank}-{secrets.token_hex(5)}"
    settings = GatewaySettings(
        worker=f"gateway-{rank}",
        incarnation=incarnation,
        rank=rank,
        count=launch.workers,
        listen_fd=listen_fd,
        door_fd=door_fd,
        control_link=places.control_socket,
        control_http=places.control_http,
        sandboxes_http=places.sandboxes_http,
        sandboxes_doors=places.sandboxes_doors,
        table_cache=str(places.routes),
        tls_certificate=launch.tls_certificate or None,
        tls_key=launch.tls_key or None,
        orphan_s=ORPHAN_S,
    )
    run(settings, FileJournalWriter(places.journals, f"gateway-{incarnation}"), connect)


def _agent(launch: Launch, places: Places) -> None:
    from bastide.adapters.clock import SystemClock
    from bastide.adapters.journal.file import FileJournalWriter
    from bastide.adapters.link.unix import serve
    from bastide.adapters.runtime.process import ProcessRuntime
    from bastide.agent.service import AgentService
    from bastide.agent.settings import AgentSettings
    from bastide.domain.lifecycle import Rung
    from bastide.wiring.adapters import engines
    from bastide.wiring.apps import box_place, boxes_of
    from bastide.wiring.isolation import dissolve

    known = engines()
    settings = AgentSettings(
        node=launch.node,
        socket=places.agent_socket,
        assignments_directory=str(places.assignments),
        sockets_directory=str(places.sockets),
        logs_directory=str(places.logs),
        state_directory=places.memory_state,
        budget_bytes=launch.budget_bytes,
        threads=launch.threads,
        available=frozenset(Rung(name) for name in launch.rungs),
        lease_s=launch.lease_s,
        llama_server=launch.llama_server,
        boxes=box_place(places),
    )

    async def run() -> None:
        runtime = ProcessRuntime(places.keeper_socket, known, boxes_of(places, launch))
        journal = FileJournalWriter(places.journals, f"agent-{secrets.token_hex(5)}")
        service = AgentService(settings, runtime, known, journal, SystemClock(), _rules())
        server: asyncio.Server | None = None

        async def work() -> None:
            nonlocal server
            await service.recover()
            server = await serve(settings.socket, service.handle, service.came, service.left)
            if not launch.llama_server:
                await runtime.warm("xllamacpp")
            await service.run()

        try:
            await _until_told(work())  # told in its first moments too it ends in order
        finally:
            if server is not None:
                server.close()
            # Engines live on when this process is killed; told to end, it takes them with it.
            await service.close(end_engines=True)
            dissolve(places, "apps")

    asyncio.run(run())


def _rules() -> Any:
    """The shipped ones (None), or those that a benchmark names, to run them beside."""
    word = os.environ.get("BASTIDE_RULES", "")
    if not word:
        return None
    from bastide.sim.baselines import rules_by

    return rules_by(word)


def _control(launch: Launch, places: Places) -> None:
    import uvicorn

    class _QuietServer(uvicorn.Server):
        """Without its clock: it looks ten times a second whether to end, and here it is cancelled instead."""

        async def main_loop(self) -> None:
            await asyncio.Event().wait()

    from bastide.adapters.calm import calm
    from bastide.adapters.clock import SystemClock
    from bastide.adapters.isolation.volumes import sizes_refused
    from bastide.adapters.journal.file import FileJournalReader
    from bastide.adapters.link.unix import connect, serve
    from bastide.adapters.store.sqlite import SqliteStore
    from bastide.adapters.vault.aead import FileKeyVault
    from bastide.control.apps import collect_forever
    from bastide.control.http.application import application
    from bastide.control.settings import ControlSettings
    from bastide.control.state import Control
    from bastide.egress.sets import sets
    from bastide.metering.meter import Meter
    from bastide.wiring.adapters import engines, library
    from bastide.wiring.apps import builder

    settings = ControlSettings(
        node=launch.node,
        socket=places.control_socket,
        agent_socket=places.agent_socket,
        http_socket=places.control_http,
        data_directory=launch.data,
        budget_bytes=launch.budget_bytes,
        workers=launch.workers,
        url=launch.url,
        egress_sets=sets(launch.egress_sets),
        volume_sizes_refused=sizes_refused,
    )

    async def run() -> None:
        store = SqliteStore(str(places.database))
        meter = Meter(store, FileJournalReader(places.journals))
        control = Control(
            settings, store, library(places), FileKeyVault(str(places.secrets_key)), engines(), meter, SystemClock(),
            builder(places),
        )  # fmt: skip
        fresh = control.ensure_admin_key()
        if fresh is not None:
            _write_private(places.admin_key, fresh + "\n")
        links = await serve(settings.socket, control.handle, control.came, control.left)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(settings.http_socket)
        config = uvicorn.Config(
            calm(application(control)), uds=settings.http_socket, log_level="warning", access_log=False, lifespan="off",
            loop="none", timeout_graceful_shutdown=2, timeout_keep_alive=3600, date_header=False,
        )  # fmt: skip
        server = _QuietServer(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]

        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(control.loop.run())
                group.create_task(control.dial_forever(connect))
                group.create_task(control.push_forever())
                group.create_task(control.jobs.run())
                group.create_task(collect_forever(control))
                group.create_task(meter.fold_forever())
                group.create_task(server._serve())

        try:
            await _until_told(work())
        finally:
            links.close()
            control.loop.flush_decisions()
            meter.fold()
            store.close()

    asyncio.run(run())


async def _until_told(work: object) -> None:
    """Run until SIGTERM or SIGINT, or until nobody has claimed this process for its lease."""
    assert asyncio.iscoroutine(work)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = asyncio.create_task(work)
    orphan = asyncio.create_task(_orphaned())
    told = asyncio.create_task(stop.wait())
    done, waiting = await asyncio.wait((running, orphan, told), return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    if running in done:
        await running


async def _orphaned() -> None:
    """Return ORPHAN_S after the supervisor has ended. While it lives no clock runs, where the kernel can tell."""
    parent, gone, loop = os.getppid(), asyncio.Event(), asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(parent)  # becomes readable when it ends
    except OSError:
        while os.getppid() == parent:  # noqa: ASYNC110  nothing tells here that a parent ended
            await asyncio.sleep(1.0)
    else:
        loop.add_reader(descriptor, gone.set)
        if os.getppid() == parent:
            await gone.wait()
        loop.remove_reader(descriptor)
        os.close(descriptor)
    logging.warning("the supervisor is gone; ending in %g s unless replaced", ORPHAN_S)
    await asyncio.sleep(ORPHAN_S)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
