"""What control does for apps alone: what they are told in confidence, their keys, and what of a declared app can't be.

A key belongs to one instance and one life of it: made at its start, known here by its hash, revoked with its process.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bastide.domain.apps import Target, secret_variable
from bastide.domain.errors import InvalidRequest, NotFound, Problem
from bastide.domain.instances import InstanceReport
from bastide.domain.keys import KEY_PREFIX, KeyGrant, hash_key
from bastide.domain.lifecycle import Phase
from bastide.domain.sources import is_digest
from bastide.domain.spec import ServiceSpec
from bastide.domain.units import format_bytes
from bastide.egress.wall import ports_of
from bastide.policy.egress import parse as parse_egress
from bastide.ports.builds import Collected

if TYPE_CHECKING:
    from bastide.control.state import Control

_log = logging.getLogger("bastide.control")
KEY_ID_PREFIX = "app-"
COLLECT_EVERY_S = 12 * 3600.0
KEPT_S = 24 * 3600.0
_GONE = (Phase.OFF, Phase.DEEP, Phase.FAILED)


def key_id(instance: str) -> str:
    return KEY_ID_PREFIX + hashlib.sha256(instance.encode()).hexdigest()[:16]


async def confide(control: Control, body: dict[str, Any]) -> dict[str, Any]:
    """Secrets and a fresh key for one start of one instance. Raises NotFound where a secret is gone."""
    project, instance = str(body["project"]), str(body["instance"])
    environment: dict[str, str] = {}
    for name in body["secrets"]:
        value = control.open_secret(project, str(name))
        if value is None:
            raise NotFound(
                f"the secret {name!r} is not set in project {project!r}; `bastide secrets set {name}` sets it"
            )
        environment[secret_variable(str(name))] = value
    if body.get("keep_key"):  # it asks whether it may go on as it was: with the key that it has
        wanted = key_id(instance)
        kept = any(grant.key_id == wanted and grant.revoked_at_s is None for grant in control.keys.values())
        return {"environment": environment, "key_kept": kept}
    text = KEY_PREFIX + secrets.token_urlsafe(32)
    forget_key(control, instance)
    grant = KeyGrant(
        key_id(instance), hash_key(text), project, name=f"of the app {body['service']}", sandboxes=True,
        created_at_s=control.now_s(),
    )  # fmt: skip
    control.store.put_key(grant)
    control.keys[grant.key_hash] = grant
    control.routes_changed()
    await control.table_given()  # it can be used from the app's first line on
    environment["BASTIDE_API_KEY"] = environment["OPENAI_API_KEY"] = text
    return {"environment": environment}


def forget_key(control: Control, instance: str) -> None:
    """Its process is gone: so is its key."""
    wanted = key_id(instance)
    for key_hash, grant in list(control.keys.items()):
        if grant.key_id == wanted and grant.revoked_at_s is None:
            del control.keys[key_hash]
            control.store.put_key(replace(grant, revoked_at_s=control.now_s()))
            control.routes_changed()


def forget_keys_of_the_gone(control: Control, reports: list[InstanceReport]) -> None:
    held = {
        grant.key_id
        for grant in control.keys.values()
        if grant.key_id.startswith(KEY_ID_PREFIX) and grant.revoked_at_s is None
    }
    for report in reports:
        if report.phase not in _GONE or key_id(report.instance) not in held:
            continue
        if report.phase is not Phase.DEEP or not report.kept:
            forget_key(control, report.instance)


async def collect(control: Control, kept_s: float) -> Collected:
    """Remove sources and builds that no service needs: not what serves, not what a rollback leads to."""
    builds = control.loop.builds
    if builds is None:
        return Collected(0, 0)
    specs = [
        spec
        for service in control.loop.services.values()
        for spec in (service.spec, service.serving_spec, service.previous_spec)
        if spec is not None
    ]
    used = [spec.app for spec in specs if spec.app is not None]
    gone = await asyncio.to_thread(builds.collect, used, kept_s)
    control.loop.forget_builds()
    return gone


async def collect_forever(control: Control) -> None:
    """Twice a day, what nobody has used for a day."""
    while True:
        await asyncio.sleep(COLLECT_EVERY_S)
        try:
            gone = await collect(control, KEPT_S)
            if gone.removed:
                _log.info("%d unused builds gave back %s", gone.removed, format_bytes(gone.given_back_bytes))
        except OSError as error:
            _log.warning("unused builds can't be collected: %s", error)


def problems_of(control: Control, spec: ServiceSpec, line: int) -> list[Problem]:
    """What of a declared app can't be had here, each said with what to do."""
    app, name = spec.app, spec.name
    assert app is not None
    found = []

    def wrong(where: str, message: str) -> None:
        found.append(Problem(line, f"{name}.{where}", message))

    if control.loop.builds is None:
        wrong("app", "apps can't be run on this machine; `bastide doctor` says why")
    elif not app.image.startswith("docker://"):
        where, uploaded = ("image", app.image) if app.image else ("app", app.source)
        if not is_digest(uploaded):
            wrong(where, f"{uploaded!r} must be uploaded first: `bastide deploy` does that")
        elif not control.loop.builds.has_source(uploaded):
            wrong(where, "its source is not on the server; `bastide deploy` uploads it")
    try:
        rules = parse_egress(app.egress, control.settings.egress_sets)
        if app.egress_tier == "packet":
            ports_of(rules)
            if os.getuid() != 0:
                wrong("egress_tier", "the packet tier needs Bastide to run as root; the proxy tier does not")
    except InvalidRequest as error:
        wrong("egress", error.message)
    there = control.loop.services.get((spec.project, name))
    sizes = {}
    if there is not None and there.spec.app is not None:
        sizes = {volume.name: volume.bytes_max for volume in there.spec.app.volumes}
    for volume in app.volumes:
        before = sizes.get(volume.name)
        if before is not None and volume.bytes_max is not None and volume.bytes_max < before:
            wrong("volumes", f"{volume.name!r} has {format_bytes(before)} and can't be made smaller; say that or more")
        if volume.bytes_max is not None and (refused := control.settings.volume_sizes_refused()) is not None:
            wrong("volumes", f"{volume.name!r}: {refused}")
    if app.target != Target() and spec.replicas.most == 1:
        wrong("target", "there is one replica at most, so nothing can be scaled; write for example `replicas: 0..4`")
    if app.volumes and spec.replicas.most > 1:
        wrong("replicas", "an app with volumes has one replica at most: two would write the same files")
    names = [given for given, _ in control.store.secrets(spec.project)]
    for secret in app.secrets:
        if secret not in names:
            wrong(
                "secrets",
                f"there is no secret {secret!r} in project {spec.project!r}; set it first with `bastide secrets set {secret}`",
            )
    for other in control.loop.services.values():
        taken = set(app.domains) & set(
            other.spec.app.domains if other.spec.app is not None and not other.removed else ()
        )
        if taken and (other.spec.project, other.spec.name) != (spec.project, name):
            wrong("domains", f"{', '.join(sorted(taken))} is another app's")
    return found
