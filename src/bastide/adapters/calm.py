"""A web application whose faults end one answer, not the line: servers close the connection of what raises, after it was answered.

Others' requests come over the same line, so that one fault would be felt by the next.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_log = logging.getLogger("bastide")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def calm(
    application: Callable[[Scope, Receive, Send], Awaitable[None]],
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """`application`, which answers its faults itself and then raises them: they are logged, and go no further once it has answered."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        ended = False

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal ended
            await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await application(scope, receive, sent)
        except Exception:
            if not ended:
                raise
            _log.exception("a fault while answering %s", scope.get("path"))

    return serve
