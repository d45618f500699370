"""Requests to apps: which app is meant, who may ask, holding while it wakes, and the books. What they say is never read.

An app is reached by its host names and below /apps/PROJECT/NAME/, with that prefix taken off and passed on.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bastide.domain.errors import EngineLost, Forbidden, HoldTimeout, NotFound, Unavailable
from bastide.domain.keys import KEY_PREFIX, KeyGrant
from bastide.domain.ledger import Account, Outcome, Settlement, Tokens
from bastide.domain.routes import ServiceRoute
from bastide.gateway import wire
from bastide.gateway.client import ClientConnection
from bastide.gateway.fleet import Slot
from bastide.gateway.relay import HOP_BY_HOP, NotReached, Relay
from bastide.gateway.request import Request
from bastide.policy import hold as hold_policy

if TYPE_CHECKING:
    from bastide.gateway.application import Gateway
    from bastide.gateway.directory import Directory
    from bastide.gateway.dispatch import ServiceQueue

PREFIX = "/apps/"
PUBLIC = "public"  # who asks without a key, in the ledger
KEY_HEADER = b"x-bastide-key"
_ATTEMPTS_MAX = 3
_FORWARDED = frozenset(
    {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix", b"forwarded"}
)


@dataclass(frozen=True, slots=True)
class Door:
    """The app a request is for. `prefix`: what is taken off its path; empty where it was found by its host."""

    route: ServiceRoute
    prefix: str = ""

    @property
    def is_public(self) -> bool:
        return self.route.app is not None and self.route.app.public


def find(directory: Directory, request: Request) -> Door | None:
    """The app that is meant, or None where none is. Raises NotFound where one is named that does not exist."""
    if directory.hosts:
        host = (request.header(b"host") or b"").decode("latin-1").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and ":" in host else host
        route = directory.hosts.get(name.rstrip("."))
        if route is not None:
            return Door(route)
    if not request.path.startswith(PREFIX):
        return None
    parts = request.path.split("/", 4)
    route = directory.services.get((parts[2], parts[3])) if len(parts) > 3 else None
    if route is None or route.app is None:
        raise NotFound(f"there is no app at {request.path[:100]}")
    return Door(route, f"{PREFIX}{parts[2]}/{parts[3]}")


def given_key(request: Request) -> bytes | None:
    """The key of ours that a request carries, if any: in its own header, or as a bearer token."""
    own = request.header(KEY_HEADER)
    if own is not None:
        return own.strip()
    scheme, _, key = (request.header(b"authorization") or b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" and key.strip().startswith(KEY_PREFIX.encode()) else None


def check(door: Door, grant: KeyGrant | None) -> None:
    """Raises Forbidden where this key is another project's."""
    if grant is not None and not grant.admin and grant.project != door.route.project:
        raise Forbidden(f"this key belongs to project {grant.project!r}, the app to another")


class AppCall:
    """One request to one app, from its admission to the books."""

    def __init__(
        self, gateway: Gateway, connection: ClientConnection, request: Request, door: Door, grant: KeyGrant | None
    ) -> None:
        self._gateway, self._connection, self._request, self._door, self._grant = (
            gateway,
            connection,
            request,
            door,
            grant,
        )
        self._relay: Relay | None = None
        self._began = time.monotonic()
        self._woke, self._wake_s = "awake", 0.0

    @property
    def has_head(self) -> bool:
        return self._relay is not None and self._relay.has_head

    async def run(self) -> None:
        """Serve it. Raises the BastideError to tell the client, where nothing of an answer has reached it."""
        route = self._door.route
        if self._door.prefix and self._request.path == self._door.prefix:
            self._redirect()
            return
        if route.unavailable is not None:
            raise Unavailable(route.unavailable, retry_after_s=10.0)
        queue = self._gateway.queues[route.project, route.service]
        ticket = self._gateway.accounts.admit(self._grant, 0, time.time()) if self._grant is not None else None
        outcome = Outcome.FAILED
        try:
            await self._tried(queue)
            outcome = Outcome.COMPLETE
        except asyncio.CancelledError:
            outcome = Outcome.CUT if self._connection.is_open else Outcome.HUNG_UP
            raise
        finally:
            if ticket is not None:
                ticket.close(Tokens())
            self._book(outcome)

    async def _tried(self, queue: ServiceQueue) -> None:
        for remaining in range(_ATTEMPTS_MAX - 1, -1, -1):
            slot = queue.take() or await self._held(queue)
            try:
                lease = slot.lease
                if lease is None:  # it went in this very moment
                    if not remaining:
                        raise EngineLost(f"{queue.route.service} went away", retry_after_s=1.0)
                    continue
                told = b"x-request-id: %b\r\nx-bastide-wake: %b\r\nserver-timing: queue;dur=%.1f, wake;dur=%.1f\r\n" % (
                    self._request.identity,
                    self._woke.encode(),
                    (time.monotonic() - self._began) * 1000,
                    self._wake_s * 1000,
                )
                self._relay = Relay(
                    self._gateway.pool, self._connection, self._request, self._head(), told,
                    self._gateway.settings.limits, lambda slot=slot: slot.draining is not None,  # type: ignore[misc]
                )  # fmt: skip
                asked_s = time.monotonic()
                await self._relay.run(lease.endpoint)
                if queue.scaling is not None and self._relay.head_s is not None:
                    queue.scaling.answered(self._relay.head_s - asked_s, self._relay.head_s)
                return
            except EngineLost as error:
                queue.errors_total += 1
                if not self.has_head:
                    self._gateway.fleet.suspect(slot, error.message)
                if isinstance(error, NotReached) and remaining:
                    continue  # it was let go while its node's agent was away: ask for it anew
                raise EngineLost(f"{queue.route.service}: {error.message}", retry_after_s=error.retry_after_s) from None
            finally:
                queue.give_back(slot)

    async def _held(self, queue: ServiceQueue) -> Slot:
        """Wait for an instance, bounded in number and time."""
        hold, began = queue.route.hold, time.monotonic()
        waiter = queue.join(lambda text, fraction: None)
        try:
            done, _ = await asyncio.wait((waiter.slot,), timeout=hold.wait_s_max)
            if not done:
                text = hold_policy.comment(queue.route.service, *queue.note())
                raise HoldTimeout(f"{text}, and did not within {hold.wait_s_max:g} s", retry_after_s=10.0)
            slot = waiter.slot.result()
        except BaseException:
            queue.leave(waiter)
            raise
        if slot.lease is not None and slot.lease.since_s >= began:
            self._woke, self._wake_s = slot.lease.woke_from, slot.lease.wake_s
        return slot

    def _head(self) -> bytes:
        """The request's head as the app gets it, up to what says how long the body is."""
        request, prefix = self._request, self._door.prefix
        target = request.target
        if not target.startswith(b"/"):  # in absolute form
            target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
        lines = [request.method.encode(), b" ", target[len(prefix) :] or b"/", b" HTTP/1.1\r\n"]
        ours = given_key(request) is not None and self._grant is not None
        for name, value in request.headers:
            if name in HOP_BY_HOP or name in _FORWARDED or name == KEY_HEADER:
                continue
            if ours and name == b"authorization" and request.header(KEY_HEADER) is None:
                continue  # a key of ours is not for the app
            lines += (name, b": ", value, b"\r\n")
        host = request.header(b"host") or b""
        proto = b"https" if self._gateway.settings.tls_certificate is not None else b"http"
        lines.append(
            b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\n"
            % (self._connection.peer.encode(), proto, host)
        )
        if prefix:
            lines.append(b"x-forwarded-prefix: %b\r\n" % prefix.encode())
        lines.append(b"x-request-id: %b\r\n" % request.identity)
        return b"".join(lines)

    def _redirect(self) -> None:
        """A directory's name without its slash: relative links would lead elsewhere."""
        request = self._request
        query = request.target.partition(b"?")[1] + request.target.partition(b"?")[2]
        headers = b"location: %b/%b\r\nx-request-id: %b\r\n" % (self._door.prefix.encode(), query, request.identity)
        self._connection.write(wire.whole(308, headers, b"", request.closes))

    def _book(self, outcome: Outcome) -> None:
        """A request to an app costs no tokens, but it is counted."""
        route, ledger = self._door.route, self._gateway.ledger
        key = self._grant.billed_to if self._grant is not None else PUBLIC
        now = time.monotonic()
        ledger.settle(
            Settlement(
                ledger.new_id(), time.time(), route.project, route.service, route.service, key, "",
                Tokens(), 0, outcome, Account.USER, None, now - self._began,
            )
        )  # fmt: skip
