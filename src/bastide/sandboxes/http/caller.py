"""Who asks: the gateway has checked the key and says so in headers of its own, over a socket that only it can reach.

Asynchronous though nothing is waited for: the others would be run on a thread each, three hops a request.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Query, Request

from bastide.domain.errors import Forbidden, InternalError
from bastide.sandboxes.house import House
from bastide.sandboxes.lives import Live


async def house_of(request: Request) -> House:
    house = request.app.state.house
    assert isinstance(house, House)
    return house


TheHouse = Annotated[House, Depends(house_of)]


class Caller:
    """`project`: the one that is meant; `any_project`: an admin's key, which may look into all."""

    def __init__(self, key_id: str, project: str, admin: bool) -> None:
        self.key_id, self.project, self.admin = key_id, project, admin


async def caller(
    project: Annotated[str | None, Query(description="An admin may act in any project")] = None,
    key: Annotated[str | None, Header(alias="x-bastide-key-id", include_in_schema=False)] = None,
    own: Annotated[str | None, Header(alias="x-bastide-key-project", include_in_schema=False)] = None,
    admin: Annotated[str | None, Header(alias="x-bastide-key-admin", include_in_schema=False)] = None,
) -> Caller:
    if key is None or own is None:
        raise InternalError("a request came here past the gateway")
    if project is not None and project != own and admin != "1":
        raise Forbidden(f"this key belongs to project {own!r}")
    return Caller(key, project or own, admin == "1")


TheCaller = Annotated[Caller, Depends(caller)]


async def live(sandbox: str, house: TheHouse, asked: TheCaller) -> Live:
    """The sandbox of the path. Raises NotFound, for a sandbox of another project too."""
    return house.of(None if asked.admin else asked.project, sandbox)


TheLive = Annotated[Live, Depends(live)]
