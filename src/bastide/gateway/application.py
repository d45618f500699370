"""The gateway's endpoints: who may call what, and where it goes. Owns one worker's live state, put together.

Thin: a model request is an Exchange, an app's an AppCall, what other parts of Bastide answer a Relay, the rest is answered here.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time

import msgspec

from bastide.domain.errors import (
    BastideError,
    CallerError,
    EngineLost,
    Forbidden,
    InternalError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from bastide.domain.keys import KEY_PREFIX, KeyGrant
from bastide.domain.routes import RoutingTable
from bastide.gateway import apps, calls, wire
from bastide.gateway.accounts import Accounts, AskSlice
from bastide.gateway.apps import AppCall
from bastide.gateway.client import ClientConnection
from bastide.gateway.directory import Directory
from bastide.gateway.dispatch import ServiceQueue
from bastide.gateway.exchange import Exchange
from bastide.gateway.fleet import Fleet
from bastide.gateway.ledger import Ledger
from bastide.gateway.relay import HOP_BY_HOP, Relay
from bastide.gateway.request import Request
from bastide.gateway.settings import GatewaySettings
from bastide.gateway.upstream import Endpoint, Pool
from bastide.ports.link import Body

_log = logging.getLogger("bastide.gateway")
_encode = msgspec.json.Encoder().encode
_CONTROL_PAGES = frozenset({"/openapi.json", "/metrics"})
_SANDBOX_PAGES = ("/api/v1/sandboxes", "/api/v1/snapshots", "/api/v1/templates")
_CONTROL_AWAY = "the control plane does not answer now (models are served on); try again soon"
_SANDBOXES_AWAY = "what serves sandboxes does not answer now (they live on); try again soon"
_DOORS = "/s/"  # signed addresses of ports inside sandboxes: the address is the permission
_HEALTH_PAGES = frozenset({"/healthz", "/readyz"})


class MethodNotAllowed(CallerError):
    code, status = "method_not_allowed", 405


class Gateway:
    def __init__(
        self, settings: GatewaySettings, pool: Pool, fleet: Fleet, ledger: Ledger, ask_slice: AskSlice
    ) -> None:
        self.settings, self.pool, self.fleet, self.ledger = settings, pool, fleet, ledger
        self.accounts = Accounts(settings.rank, settings.count, ask_slice)
        self.directory = Directory(RoutingTable())
        self.queues: dict[tuple[str, str], ServiceQueue] = {}
        self.has_table = False
        self.requests_total = 0
        self.errors_total: dict[str, int] = {}
        self._control = Endpoint(path=settings.control_http)
        self._sandboxes = Endpoint(path=settings.sandboxes_http) if settings.sandboxes_http else None
        self._doors = Endpoint(path=settings.sandboxes_doors, once=True) if settings.sandboxes_doors else None

    # The table

    def apply(self, table: RoutingTable) -> None:
        """Serve by this table from now on; requests under way end by the one they began with."""
        self.directory = Directory(table)
        self.has_table = True
        wanted: set[str] = set()
        here: set[tuple[str, str]] = set()
        for route in table.services:
            if route.outside is not None:
                continue
            here.add((route.project, route.service))
            wanted.update(ref.instance for ref in route.instances)
            name = (route.project, route.service)
            queue = self.queues.get(name)
            if queue is None:
                self.queues[name] = ServiceQueue(route, self.fleet)
            elif queue.route != route:
                queue.update(route)
        for name in [name for name in self.queues if name not in here]:
            self.queues.pop(name).end()
        self.fleet.keep(wanted)
        self.accounts.keep({grant.billed_to for grant in table.keys})

    def load(self) -> Body:
        """What control is told of this worker's load."""
        services = {
            f"{project}/{service}": {
                "in_flight": queue.in_flight,
                "queued": queue.queued,
                "requests_total": queue.requests_total,
                "errors_total": queue.errors_total,
            }
            for (project, service), queue in self.queues.items()
        }
        counters = {"requests_total": self.requests_total}
        counters |= {f"errors_total.{code}": count for code, count in self.errors_total.items()}
        return {"services": services, "counters": counters}

    # Requests

    def screen(self, request: Request) -> None:
        """Refuse by the head alone what can be: unknown paths, wrong methods, keys that open nothing."""
        path, method = request.path, request.method
        door = apps.find(self.directory, request)
        if door is not None:
            request.door, request.is_passed_on = door, True
            if not door.is_public or request.header(apps.KEY_HEADER) is not None:
                request.caller = self._caller(request, apps.given_key(request) or b"")
                apps.check(door, request.caller)
            return
        if self._doors is not None and (path.startswith(_DOORS) or _own_origin(request)):
            request.is_passed_on = True
            return
        if path in _HEALTH_PAGES:
            _allow(method, "GET")
            return
        if self._sandboxes is not None and _is_below(path, _SANDBOX_PAGES):
            _allow(method, "GET", "POST", "PUT", "DELETE")
            request.caller = self._caller(request)
            if not request.caller.may_sandbox:
                raise Forbidden(
                    "this key may not use sandboxes; ask an admin for one made with `--can-use-sandboxes` or `--can-deploy`"
                )
            return
        if path.startswith("/api/v1/"):  # control checks the key itself: it may know one that is not here yet
            _allow(method, "GET", "POST", "PUT", "PATCH", "DELETE")
            if method == "PUT" and (path.startswith("/api/v1/sources/") or path.endswith("/files")):
                # As large as a directory may be: it is passed on as it comes, so who sends it must be known here.
                request.caller, request.is_passed_on = self._caller(request), True
            return
        request.caller = self._caller(request)
        if path == "/" or path in _CONTROL_PAGES:
            _allow(method, "GET")
        elif path in calls.PATHS:
            _allow(method, "POST")
        elif path.startswith("/v1/"):
            if path != "/v1/models" and not path.startswith("/v1/models/"):
                raise NotFound(f"there is no {path[:100]}; see /v1/models, /v1/chat/completions, /v1/completions, "
                               "/v1/embeddings and /v1/responses")  # fmt: skip
            _allow(method, "GET")
        else:
            raise NotFound(f"there is no {path[:100]}")

    async def serve(self, connection: ClientConnection, request: Request) -> None:
        """Answer one request. Never raises."""
        exchange: Exchange | None = None
        passed: Relay | AppCall | None = None
        try:
            self.requests_total += 1
            if request.refusal is not None:
                raise request.refusal
            if request.door is not None:
                passed = AppCall(self, connection, request, request.door, request.caller)
                await passed.run()
            elif request.path in calls.PATHS and not request.is_passed_on:
                assert request.caller is not None
                exchange = Exchange(self, connection, request, request.caller)
                await exchange.run()
            elif (leads := self._leads(request)) is not None:
                endpoint, who, away = leads
                passed = self._relay(connection, request, who)
                try:
                    await passed.run(endpoint)
                except EngineLost:
                    raise Unavailable(away, retry_after_s=2.0) from None
            else:
                self._page(connection, request)
        except BastideError as error:
            self._tell(connection, request, exchange, passed, error)
        except asyncio.CancelledError:
            # The client left, or the worker ends: whoever still listens is told.
            if connection.is_open:
                self._tell(
                    connection,
                    request,
                    exchange,
                    passed,
                    Unavailable("this gateway restarts; try again", retry_after_s=1.0),
                )
            connection.abort_soon()
            raise
        except Exception as error:
            # The kind and the place of a fault are logged, never its text: that may hold what a user said.
            _log.error("%s at %s", type(error).__name__, _place(error))
            self._tell(connection, request, exchange, passed, InternalError("the gateway failed; its log says where"))
        finally:
            connection.finish(request)

    def _tell(
        self,
        connection: ClientConnection,
        request: Request,
        exchange: Exchange | None,
        passed: Relay | AppCall | None,
        error: BastideError,
    ) -> None:
        self.errors_total[error.code] = self.errors_total.get(error.code, 0) + 1
        if exchange is not None:
            exchange.answer.error(error)
        elif passed is not None and passed.has_head:
            connection.abort()  # an answer that breaks off must not look complete
        else:
            headers, body = wire.error_parts(error)
            headers += b"x-request-id: %b\r\n" % request.identity
            connection.write(wire.whole(error.status, headers, body, request.closes, request.method == "HEAD"))

    def _leads(self, request: Request) -> tuple[Endpoint, tuple[tuple[bytes, bytes], ...], str] | None:
        """Of a request that another part of Bastide answers: where it is, who asks (told where it trusts us), what to say where it is away."""
        if self._doors is not None and (request.path.startswith(_DOORS) or _own_origin(request)):
            return self._doors, (), _SANDBOXES_AWAY
        if self._sandboxes is not None and _is_below(request.path, _SANDBOX_PAGES):
            assert request.caller is not None
            return self._sandboxes, _who(request.caller), _SANDBOXES_AWAY
        if request.path in _CONTROL_PAGES or request.path.startswith("/api/v1/"):
            return self._control, (), _CONTROL_AWAY
        return None

    def _relay(self, connection: ClientConnection, request: Request, who: tuple[tuple[bytes, bytes], ...]) -> Relay:
        target = request.target
        if (token := _own_origin(request)) is not None:
            target = b"/o/%b%b" % (token, target)
        lines = [request.method.encode(), b" ", target, b" HTTP/1.1\r\n"]
        for name, value in request.headers:
            if name not in HOP_BY_HOP and not name.startswith(b"x-bastide-key-"):  # nobody else may say who asks
                lines += (name, b": ", value, b"\r\n")
        for name, value in who:
            lines += (name, b": ", value, b"\r\n")
        told = b"x-request-id: %b\r\n" % request.identity
        return Relay(self.pool, connection, request, b"".join(lines), told, self.settings.limits, is_ours=True)

    def _caller(self, request: Request, own: bytes | None = None) -> KeyGrant:
        """The key that asks. `own`: it was found elsewhere than in the Authorization header."""
        given = request.header(b"authorization") if own is None else (b"Bearer " + own if own else None)
        if given is None:
            raise Unauthenticated(f"no API key was given; send it as 'Authorization: Bearer {KEY_PREFIX}...'")
        scheme, _, key = given.partition(b" ")
        grant = None
        if scheme.lower() == b"bearer":
            grant = self.directory.keys.get(hashlib.sha256(key.strip()).hexdigest())
        if grant is None:
            if not self.has_table:
                raise Unavailable(
                    "this gateway has not heard from the control plane yet; try again soon", retry_after_s=1.0
                )
            raise Unauthenticated("this API key is not known here")
        reason = grant.refuses(time.time())
        if reason is not None:
            raise Unauthenticated(reason)
        return grant

    def _page(self, connection: ClientConnection, request: Request) -> None:
        path = request.path
        status = 200
        if path == "/healthz":
            body = b'{"status":"ok"}'
        elif path == "/readyz":
            status, body = (
                (200, b'{"status":"ready"}') if self.has_table else (503, b'{"status":"no routing table yet"}')
            )
        elif path == "/":
            body = b'{"name":"bastide","api":"/v1","control":"/api/v1","openapi":"/openapi.json"}'
        else:
            body = self._models(request)
        headers = wire.JSON + b"x-request-id: %b\r\n" % request.identity
        connection.write(wire.whole(status, headers, body, request.closes))

    def _models(self, request: Request) -> bytes:
        grant = request.caller
        assert grant is not None
        if request.path == "/v1/models":
            routes = self.directory.models(grant)
            return _encode({"object": "list", "data": [self._model(route.model, grant) for route in routes]})
        return _encode(self._model(request.path.removeprefix("/v1/models/"), grant))

    def _model(self, name: str, grant: KeyGrant) -> Body:
        route = self.directory.model(grant, name)
        created = int(self.directory.created_at_s(route))
        return {"id": route.model, "object": "model", "created": created, "owned_by": route.project}


def _is_below(path: str, pages: tuple[str, ...]) -> bool:
    return any(path == page or path.startswith(page + "/") for page in pages)


def _own_origin(request: Request) -> bytes | None:
    """The token of a signed address that is a host name: its pages have an origin of their own."""
    host = request.header(b"host")
    if host is None or host[:2] not in (b"s-", b"S-"):
        return None
    label, _, rest = host.lower().partition(b".")
    return label[2:] if rest.partition(b":")[0] == b"localhost" and label[2:].isalnum() else None


def _who(grant: KeyGrant) -> tuple[tuple[bytes, bytes], ...]:
    """Who asks, for a server that trusts this gateway alone."""
    return (
        (b"x-bastide-key-id", grant.key_id.encode()),
        (b"x-bastide-key-project", grant.project.encode()),
        (b"x-bastide-key-admin", b"1" if grant.admin else b"0"),
    )


def _allow(method: str, *methods: str) -> None:
    if method not in methods:
        raise MethodNotAllowed(f"{method} is not allowed here; use {' or '.join(methods)}")


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}" if trace is not None else "?"
