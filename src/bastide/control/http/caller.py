"""Who asks, and what they may. Deny by default: an inference key may use models and see its own usage, nothing else."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Depends, Header, Query, Request

from bastide.control.state import Control
from bastide.domain.errors import Forbidden, NotFound, Unauthenticated
from bastide.domain.identity import DEFAULT_PROJECT
from bastide.domain.keys import KeyGrant, hash_key


def control_of(request: Request) -> Control:
    control = request.app.state.control
    assert isinstance(control, Control)
    return control


ControlState = Annotated[Control, Depends(control_of)]


def caller(
    control: ControlState, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
) -> KeyGrant:
    """The key that asks. Raises Unauthenticated."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated(
            "this needs an API key: send `Authorization: Bearer bst_…` (the admin key is in DATA/admin.key)"
        )
    grant = control.key_by_hash(hash_key(key.strip()))
    if grant is None:
        raise Unauthenticated("this API key is not known here")
    refusal = grant.refuses(time.time())
    if refusal is not None:
        raise Unauthenticated(refusal)
    return grant


Caller = Annotated[KeyGrant, Depends(caller)]


def admin(grant: Caller) -> KeyGrant:
    """An admin's key. Raises Forbidden."""
    if not grant.admin:
        raise Forbidden("this needs an admin key")
    return grant


Admin = Annotated[KeyGrant, Depends(admin)]


def project(control: ControlState, grant: Caller, project: Annotated[str | None, Query()] = None) -> str:
    """The project that is meant: the key's own; an admin may name any that exists. Raises Forbidden, NotFound."""
    if not (grant.admin or grant.deploys):
        raise Forbidden("this key is for using models only; ask an admin for one made with `--can-deploy`")
    if project is None or project == grant.project:
        return grant.project
    if not grant.admin:
        raise Forbidden(f"this key belongs to project {grant.project!r}")
    if project != DEFAULT_PROJECT and project not in control.store.projects():
        raise NotFound(f"there is no project {project!r}; `bastide projects create {project}` makes it")
    return project


Project = Annotated[str, Depends(project)]
