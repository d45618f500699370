"""Projects, API keys and secrets. A key is shown once, a secret never."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from bastide.control.apps import KEY_ID_PREFIX
from bastide.control.http.caller import Admin, ControlState, Project
from bastide.control.view import moment
from bastide.domain.errors import Conflict, InvalidRequest
from bastide.domain.identity import DEFAULT_PROJECT, NAME_RULE, is_name
from bastide.domain.keys import BudgetWindow, KeyGrant, Limits
from bastide.domain.units import money_number, parse_duration_s, parse_money_pico

router = APIRouter(prefix="/api/v1", tags=["projects, keys and secrets"])

Count = Annotated[int | None, Field(default=None, ge=1, le=10**12)]


class ProjectBody(BaseModel, extra="forbid"):
    name: str


class KeyBody(BaseModel, extra="forbid"):
    """What the new key may do. Everything left out has no limit, but it may not deploy unless said."""

    name: str = Field(default="", max_length=100)
    admin: bool = False
    can_deploy: bool = False
    can_use_sandboxes: bool = False
    models: list[str] = Field(default=[], max_length=1000, description="Empty: every model of the project")
    expires_in: str | None = Field(default=None, description="A time such as 30d", examples=["30d"])
    requests_per_minute: Count = None
    tokens_per_minute: Count = None
    in_flight_max: Count = None
    budget: float | str | None = Field(default=None, description="Money per window; it can't be overrun")
    budget_window: BudgetWindow = BudgetWindow.MONTH


class SecretBody(BaseModel, extra="forbid"):
    value: str = Field(min_length=1, max_length=64 * 1024)


@router.get("/projects")
async def projects(control: ControlState, _: Admin) -> dict[str, Any]:
    """Every project, with how many services and keys it has."""
    names = sorted({DEFAULT_PROJECT, *control.store.projects()})
    services = [s.spec.project for s in control.loop.services.values()]
    keys = [grant.project for grant in control.keys.values() if grant.revoked_at_s is None]
    return {"projects": [{"name": n, "services": services.count(n), "keys": keys.count(n)} for n in names]}


@router.post("/projects")
async def create_project(body: ProjectBody, control: ControlState, _: Admin) -> dict[str, Any]:
    if not is_name(body.name):
        raise InvalidRequest(f"a project's name must be {NAME_RULE}", param="name")
    control.store.add_project(body.name, time.time())
    return {"name": body.name}


@router.delete("/projects/{name}")
async def remove_project(name: str, control: ControlState, _: Admin) -> dict[str, Any]:
    """Only one that has no services left; its keys and secrets go with it."""
    if name == DEFAULT_PROJECT:
        raise Conflict("the default project can't be removed")
    control.store.remove_project(name)
    control.keys = {key_hash: grant for key_hash, grant in control.keys.items() if grant.project != name}
    control.routes_changed()
    return {"name": name, "removed": True}


@router.get("/keys")
async def keys(control: ControlState, project: Project, _: Admin) -> dict[str, Any]:
    """Keys of the project, never the keys themselves."""
    mine = sorted(
        (g for g in control.keys.values() if g.project == project and not g.key_id.startswith(KEY_ID_PREFIX)),
        key=lambda g: g.created_at_s,
    )
    return {"keys": [_view(grant) for grant in mine]}


@router.post("/keys")
async def create_key(body: KeyBody, control: ControlState, project: Project, _: Admin) -> dict[str, Any]:
    """Make a key. It is in this answer and nowhere else: only its hash is kept."""
    now_s = time.time()
    try:
        expires_at_s = now_s + parse_duration_s(body.expires_in) if body.expires_in is not None else None
        budget_pico = parse_money_pico(body.budget) if body.budget is not None else None
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    grant = KeyGrant(
        key_id="",
        key_hash="",
        project=project,
        name=body.name,
        admin=body.admin,
        deploys=body.can_deploy or body.admin,
        sandboxes=body.can_use_sandboxes,
        models=tuple(body.models),
        limits=Limits(
            body.requests_per_minute, body.tokens_per_minute, body.in_flight_max, budget_pico, body.budget_window
        ),
        expires_at_s=expires_at_s,
        created_at_s=now_s,
    )
    text, made = control.make_key(grant)
    await control.table_given()  # it can be used at once
    return {**_view(made), "key": text}


@router.delete("/keys/{key_id}")
async def revoke_key(key_id: str, control: ControlState, grant: Admin) -> dict[str, Any]:
    if key_id == grant.key_id:
        raise Conflict("a key can't revoke itself; make another admin key first and use that")
    revoked = control.revoke_key(key_id)
    await control.table_given()
    return _view(revoked)


@router.get("/secrets")
async def secrets(control: ControlState, project: Project) -> dict[str, Any]:
    """Names, and when each was last set."""
    return {"secrets": [{"name": name, "set": moment(at_s)} for name, at_s in control.store.secrets(project)]}


@router.put("/secrets/{name}")
async def set_secret(name: str, body: SecretBody, control: ControlState, project: Project) -> dict[str, Any]:
    if not is_name(name):
        raise InvalidRequest(f"a secret's name must be {NAME_RULE}", param="name")
    control.put_secret(project, name, body.value)
    return {"name": name}


@router.delete("/secrets/{name}")
async def remove_secret(name: str, control: ControlState, project: Project) -> dict[str, Any]:
    control.store.remove_secret(project, name)
    control.routes_changed()
    return {"name": name, "removed": True}


def _view(grant: KeyGrant) -> dict[str, Any]:
    limits = grant.limits
    budget = None
    if limits.budget_pico is not None:
        budget = {"amount": money_number(limits.budget_pico), "window": limits.budget_window.value}
    state = "revoked" if grant.revoked_at_s is not None else "live"
    if state == "live" and grant.expires_at_s is not None and grant.expires_at_s <= time.time():
        state = "expired"
    return {
        "id": grant.key_id,
        "name": grant.name,
        "project": grant.project,
        "state": state,
        "admin": grant.admin,
        "can_deploy": grant.deploys,
        "can_use_sandboxes": grant.may_sandbox,
        "models": list(grant.models),
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "in_flight_max": limits.in_flight_max,
        "budget": budget,
        "created": moment(grant.created_at_s),
        "expires": moment(grant.expires_at_s) if grant.expires_at_s is not None else None,
    }
