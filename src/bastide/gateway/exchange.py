"""One request to a model, from its key to its settlement. Owns the order of things and what becomes of each failure.

Nothing is forwarded before it is in the journal, nothing is billed that was not made, and whatever happens the request
leaves its queue, its slot, its reservation and its connection behind clean. It never logs what was said.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from bastide.domain.errors import (
    BastideError,
    EngineError,
    HoldTimeout,
    InvalidRequest,
    PlatformError,
    QueueFull,
    Unavailable,
)
from bastide.domain.keys import KeyGrant
from bastide.domain.ledger import Account, Outcome, Progress, Reservation, Settlement, Tokens, cost_pico
from bastide.domain.routes import ServiceRoute
from bastide.gateway import answer, calls
from bastide.gateway.attempt import Attempt, Failed, Plan
from bastide.gateway.client import ClientConnection
from bastide.gateway.fleet import Slot
from bastide.gateway.request import Request
from bastide.policy import admission, budget, routing
from bastide.policy import hold as hold_policy

if TYPE_CHECKING:
    from bastide.gateway.application import Gateway
    from bastide.gateway.dispatch import ServiceQueue

_ATTEMPTS_MAX = 3
_NOTE_EVERY_S = 0.2


class Exchange:
    __slots__ = (
        "_billed",
        "_call",
        "_connection",
        "_gateway",
        "_grant",
        "_noted_at",
        "_noted_text",
        "_request",
        "answer",
    )

    def __init__(self, gateway: Gateway, connection: ClientConnection, request: Request, grant: KeyGrant) -> None:
        self._gateway, self._connection, self._request, self._grant = gateway, connection, request, grant
        self._call = calls.read(request.path, request.body)
        self.answer = answer.Answer(connection, request, self._call.streams)
        self._billed = Tokens()
        self._noted_at = 0.0
        self._noted_text = ""

    async def run(self) -> None:
        """Serve it. Raises the BastideError to tell the client, where nothing of an answer has reached it."""
        call, now_s = self._call, time.time()
        directory = self._gateway.directory
        route = directory.model(self._grant, call.model)
        estimate = admission.token_estimate(len(call.body), call.answers, call.output_tokens_max)
        ticket = self._gateway.accounts.admit(self._grant, estimate, now_s)
        try:
            project = route.project
            order = routing.service_order(
                route.services, route.fallbacks, lambda name: self._usable(project, name), random.random()
            )
            if not order:
                raise self._none_usable(project, [name for name, _ in route.services])
            for left, name in zip(range(len(order) - 1, -1, -1), order, strict=True):
                service = directory.services[project, name]
                try:
                    bound = self._bound_pico(service)
                    if bound and self._grant.limits.budget_pico is not None:
                        await self._gateway.accounts.reserve(ticket, self._grant, bound, now_s)
                    cost = await self._served_by(service, bound)
                    ticket.settle(cost)
                    return
                except (PlatformError, EngineError, QueueFull):
                    ticket.settle(0)
                    if self.answer.has_content or not left:
                        raise
        except Cut as cut:
            ticket.settle(cut.cost_pico)
            raise cut.error from None
        except Left as left_early:
            ticket.settle(left_early.cost_pico)
            raise asyncio.CancelledError from None
        finally:
            ticket.close(self._billed)

    def _usable(self, project: str, name: str) -> bool:
        service = self._gateway.directory.services.get((project, name))
        return service is not None and service.unavailable is None

    def _none_usable(self, project: str, names: list[str]) -> BastideError:
        for name in names:
            service = self._gateway.directory.services.get((project, name))
            if service is not None and service.unavailable:
                return Unavailable(f"{name} can't serve: {service.unavailable}", retry_after_s=10.0)
        return Unavailable(f"no service answers for the model {self._call.model!r} now", retry_after_s=10.0)

    def _bound_pico(self, service: ServiceRoute) -> int:
        call, context = self._call, service.context_tokens
        if call.is_embedding and not service.embeddings and service.outside is None:
            raise InvalidRequest(f"the model {call.model!r} gives no embeddings", param="model")
        given = budget.input_tokens_max(context, len(call.body), call.prompts)
        made = 0 if call.is_embedding else budget.output_tokens_max(context, call.answers, call.output_tokens_max)
        return budget.cost_bound_pico(service.price, given, made)

    async def _served_by(self, service: ServiceRoute, bound_pico: int) -> int:
        """Forward to one service until it answers, fails for good, or the attempts are used up. Returns the cost."""
        queue = None if service.outside is not None else self._gateway.queues[service.project, service.service]
        event = _Event(self._gateway, service, self._call.model, self._grant.billed_to, bound_pico)
        try:
            return await self._tried(queue, service, event)
        finally:
            # Whatever else ended it, say a client that left between two attempts: what was opened is settled.
            event.close(Tokens(), Outcome.FAILED, self.answer)

    async def _tried(self, queue: ServiceQueue | None, service: ServiceRoute, event: _Event) -> int:
        for remaining in range(_ATTEMPTS_MAX - 1, -1, -1):
            slot = None
            if queue is not None:
                slot = queue.take(self._call.body) or await self._waited_for(queue, service)
                self.answer.instance = slot.instance
            attempt: Attempt | None = None
            try:
                plan = Plan.engine(slot, self._call) if slot is not None else Plan.outside(service, self._call)
                event.open(plan.name)
                attempt = Attempt(self._gateway.pool, self._gateway.settings.limits, self.answer, self._call, plan)
                attempt.counted = event.progress
                await attempt.run()
                self._billed = attempt.tokens()
                return event.close(self._billed, Outcome.COMPLETE, self.answer)
            except Failed as failed:
                made = attempt.tokens() if attempt is not None else Tokens()
                if queue is not None and (failed.may_move or failed.blames_engine):
                    queue.errors_total += 1
                if slot is not None and failed.blames_engine:
                    self._gateway.fleet.suspect(slot, failed.error.message)
                if self.answer.has_content:
                    self._billed = made
                    raise Cut(failed.error, event.close(self._billed, Outcome.CUT, self.answer)) from None
                event.waste(made)
                if not failed.may_move or not remaining:
                    raise failed.error from None
            except asyncio.CancelledError:
                if attempt is None:
                    raise
                # The client left, or this worker ends: the engine stops, and what it made until now is billed.
                attempt.stop()
                self._billed = attempt.tokens()
                outcome = Outcome.CUT if self._connection.is_open else Outcome.HUNG_UP
                raise Left(event.close(self._billed, outcome, self.answer)) from None
            finally:
                if slot is not None and queue is not None:
                    queue.give_back(slot)
        raise AssertionError("the last attempt returns or raises")

    async def _waited_for(self, queue: ServiceQueue, service: ServiceRoute) -> Slot:
        """An instance, waited for. HoldTimeout, QueueFull or why it can't wake."""
        began = time.monotonic()
        slot = await self._held(queue, service, began)
        self.answer.queue_s += time.monotonic() - began
        if slot.lease is not None and slot.lease.since_s >= began:
            self.answer.woke_from, self.answer.wake_s = slot.lease.woke_from, slot.lease.wake_s
        return slot

    async def _held(self, queue: ServiceQueue, service: ServiceRoute, began: float) -> Slot:
        hold, streams = service.hold, self._call.streams
        waiter = queue.join(self._noted, self._call.body)
        spoke_s: float | None = None
        try:
            while True:
                waited_s = time.monotonic() - began
                if waited_s >= hold.wait_s_max:
                    text = hold_policy.comment(service.service, *queue.note())
                    raise HoldTimeout(f"{text}, and did not within {hold.wait_s_max:g} s", retry_after_s=10.0)
                if streams and waited_s >= hold_policy.SILENT_S:
                    self._say(hold_policy.comment(service.service, *queue.note()))
                    spoke_s = waited_s
                moment_s = hold_policy.next_moment_s(waited_s, hold, streams, spoke_s)
                done, _ = await asyncio.wait((waiter.slot,), timeout=max(0.0, moment_s - waited_s))
                if done:
                    return waiter.slot.result()
        except BaseException:
            queue.leave(waiter)
            raise

    def _noted(self, text: str, fraction: float | None) -> None:
        if self.answer.has_head and time.monotonic() - self._noted_at >= _NOTE_EVERY_S:
            said = hold_policy.comment(self._call.model, text, fraction)
            if said != self._noted_text:
                self._say(said)

    def _say(self, text: str) -> None:
        self._noted_at, self._noted_text = time.monotonic(), text
        self.answer.say(text)


class Cut(Exception):
    """The answer broke off after its first token: told in the stream, and what was sent is billed."""

    def __init__(self, error: BastideError, cost: int) -> None:
        super().__init__(error.message)
        self.error, self.cost_pico = error, cost


class Left(Exception):
    """The client left, or this worker ends, while an engine was at work."""

    def __init__(self, cost: int) -> None:
        super().__init__()
        self.cost_pico = cost


class _Event:
    """The request in the ledger: opened once, settled once."""

    __slots__ = ("_began", "_bound_pico", "_id", "_instance", "_key_id", "_ledger", "_model", "_service", "_wasted")

    def __init__(self, gateway: Gateway, service: ServiceRoute, model: str, key_id: str, bound_pico: int) -> None:
        self._ledger, self._service, self._model, self._key_id = gateway.ledger, service, model, key_id
        self._bound_pico = bound_pico
        self._id = ""
        self._instance = ""
        self._wasted = 0
        self._began = time.monotonic()

    def open(self, instance: str) -> None:
        self._instance = instance
        if self._id:
            return
        event_id, service = self._ledger.new_id(), self._service
        self._ledger.reserve(
            Reservation(
                event_id, time.time(), service.project, service.service, self._model, self._key_id, instance,
                service.price, self._bound_pico,
            )
        )  # fmt: skip
        self._id = event_id  # only once it is written is there something to settle

    def progress(self, tokens: Tokens) -> None:
        self._ledger.progress(Progress(self._id, tokens))

    def waste(self, tokens: Tokens) -> None:
        """Tokens an engine made in vain: nobody pays, but they are counted."""
        if self._id and tokens != Tokens():
            self._wasted += 1
            self._settle(f"{self._id}.{self._wasted}", tokens, 0, Outcome.FAILED, Account.SYSTEM, None)

    def close(self, tokens: Tokens, outcome: Outcome, told: answer.Answer) -> int:
        if not self._id:
            return 0
        cost = cost_pico(self._service.price, tokens)
        event_id, self._id = self._id, ""
        self._settle(event_id, tokens, cost, outcome, Account.USER, told.first_token_s)
        return cost

    def _settle(
        self, event_id: str, tokens: Tokens, cost: int, outcome: Outcome, account: Account, first_token_s: float | None
    ) -> None:
        service = self._service
        self._ledger.settle(
            Settlement(
                event_id, time.time(), service.project, service.service, self._model, self._key_id, self._instance,
                tokens, cost, outcome, account, first_token_s, time.monotonic() - self._began,
            )
        )  # fmt: skip
