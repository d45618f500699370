"""What control knows, as programs read it: the stable JSON of `ps`, `usage`, `why`. Units are in the names."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Any

from bastide.control.loop import ControlLoop
from bastide.domain.decisions import Decision
from bastide.domain.instances import InstanceReport
from bastide.domain.ledger import Tokens
from bastide.domain.lifecycle import Phase, ServicePhase, service_phase
from bastide.domain.plan import DesiredService
from bastide.domain.spec import ServiceSpec, SleepMode
from bastide.domain.units import PICO_PER_UNIT, format_bytes, format_duration, money_number
from bastide.ports.store import TimeRow, UsageRow


def moment(at_s: float) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    whole = int(at_s)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((at_s - whole) * 1000):03d}Z"


def instance_view(report: InstanceReport) -> dict[str, Any]:
    return {
        "id": report.instance,
        "generation": report.generation,
        "phase": report.phase.value,
        "reason": report.reason,
        "pid": report.pid,
        "node": report.node,
        "memory_bytes": report.memory_bytes,
        "in_flight": report.in_flight,
        "since": moment(report.since_s),
        "last_used": moment(report.last_used_s) if report.last_used_s else None,
        "failures": report.failures,
    }


def services_view(services: Iterable[DesiredService], loop: ControlLoop) -> list[dict[str, Any]]:
    """Every one of these services, in order of project and name."""
    mine: dict[tuple[str, str], list[InstanceReport]] = {}
    for report in loop.reports.values():
        mine.setdefault((report.project, report.service), []).append(report)
    ordered = sorted(services, key=lambda service: (service.spec.project, service.spec.name))
    return [service_view(s, loop, mine.get((s.spec.project, s.spec.name), [])) for s in ordered]


def service_view(service: DesiredService, loop: ControlLoop, reports: list[InstanceReport]) -> dict[str, Any]:
    """One service; `reports`: its instances."""
    spec = service.spec
    mine = sorted(reports, key=lambda r: (r.generation, r.instance))
    phase, reason, since_s = _phase(service, mine, loop)
    work = loop.work.get((spec.project, spec.name))
    return {
        "name": spec.name,
        "project": spec.project,
        "kind": spec.kind.value,
        "phase": phase.value,
        "reason": reason,
        "since": moment(since_s),
        "generation": service.generation,
        "serving_generation": service.serving,
        "app": _app_view(spec),
        "model": spec.model.url if spec.model is not None else spec.endpoint.url if spec.endpoint else None,
        "replicas": f"{spec.replicas.least}..{spec.replicas.most}",
        "progress": {"text": work.text, "fraction": work.fraction} if work is not None and service.rolling else None,
        "instances": [instance_view(report) for report in mine],
    }


def _app_view(spec: ServiceSpec) -> dict[str, Any] | None:
    """How an app is reached: its path on this Bastide, and its host names."""
    app = spec.app
    if app is None:
        return None
    if app.job is not None:  # nobody can ask it anything
        return {"path": None, "hosts": [], "public": False, "source": app.source or app.image}
    return {
        "path": f"/apps/{spec.project}/{spec.name}/",
        "hosts": [f"{spec.name}.{spec.project}.localhost", *app.domains],
        "public": app.public,
        "source": app.source or app.image,
    }


def _phase(service: DesiredService, mine: list[InstanceReport], loop: ControlLoop) -> tuple[ServicePhase, str, float]:
    changed_s = service.changed_at_s
    if service.removed:
        return ServicePhase.REMOVING, f"removed; {len(mine)} instance(s) still end", changed_s
    suffix = ""
    if service.rolling:
        work = loop.work.get((service.spec.project, service.spec.name))
        text = work.text if work is not None else "waiting for its turn"
        if service.serving == 0:
            return ServicePhase.DEPLOYING, text, changed_s
        suffix = f"; generation {service.generation} is being deployed: {text}"
    elif service.failed_generation == service.generation:
        if service.serving == 0:
            return ServicePhase.FAILED, service.failure, changed_s
        suffix = f"; generation {service.generation} failed: {service.failure}"
    if service.serving_spec is not None and service.serving_spec.endpoint is not None:
        return ServicePhase.READY, "an outside endpoint" + suffix, changed_s
    if (
        service.serving_spec is not None
        and service.serving_spec.app is not None
        and service.serving_spec.app.job is not None
    ):
        runs, text = loop.job_notes.get((service.spec.project, service.spec.name), (False, "waits for its time"))
        return ServicePhase.READY if runs else ServicePhase.ASLEEP, text + suffix, changed_s
    serving = [report for report in mine if report.generation == service.serving_run]
    phase = service_phase(tuple(report.phase for report in serving))
    chosen = _telling(serving, phase)
    if chosen is None:
        return ServicePhase.PENDING, "waiting for the node" + suffix, changed_s
    return phase, chosen.reason + suffix, chosen.since_s


def _telling(serving: list[InstanceReport], phase: ServicePhase) -> InstanceReport | None:
    """The instance whose reason tells most about the service."""
    moving = (Phase.STARTING, Phase.WAKING, Phase.AWAKE, Phase.SINKING, Phase.FAILED)
    for report in serving:
        if report.phase in moving:
            return report
    warmest = sorted((r for r in serving if r.phase.rung is not None), key=lambda r: (r.phase.rung.depth, -r.since_s))  # type: ignore[union-attr]
    return warmest[0] if warmest else (serving[0] if serving else None)


def decision_view(decision: Decision) -> dict[str, Any]:
    return {
        "at": moment(decision.at_s),
        "actor": decision.actor,
        "what": decision.what,
        "reason": decision.reason,
        "instance": decision.instance or None,
        "facts": decision.facts,
    }


def usage_view(rows: Iterable[UsageRow], times: Iterable[TimeRow], engines: Tokens | None) -> dict[str, Any]:
    rows, times = tuple(rows), tuple(times)
    users = [row for row in rows if row.account == "user"]
    answer: dict[str, Any] = {
        "total": _sum(users, sum(row.cost_pico for row in times)),
        "system": _sum([row for row in rows if row.account != "user"]),
        "rows": [
            {
                "project": row.project,
                "service": row.service,
                "key": row.key_id,
                "day": row.day,
                "account": row.account,
                **_sum([row]),
            }
            for row in rows
        ],
        "instance_time": [
            {
                "project": row.project,
                "service": row.service,
                "day": row.day,
                "phase": row.phase,
                "instance_seconds": round(row.seconds, 3),
                "cost": money_number(row.cost_pico),
            }
            for row in times
        ],
    }
    if engines is not None:
        answer["engines"] = {
            "input_tokens": engines.input_tokens,
            "cached_input_tokens": engines.cached_input_tokens,
            "output_tokens": engines.output_tokens,
        }
    return answer


def _sum(rows: list[UsageRow], more_pico: int = 0) -> dict[str, Any]:
    cost_pico = sum(row.cost_pico for row in rows) + more_pico
    return {
        "requests": sum(row.requests for row in rows),
        "input_tokens": sum(row.input_tokens for row in rows),
        "cached_input_tokens": sum(row.cached_input_tokens for row in rows),
        "output_tokens": sum(row.output_tokens for row in rows),
        "cost": money_number(cost_pico),
        "cost_pico": cost_pico,
    }


def spec_view(spec: ServiceSpec) -> dict[str, Any]:
    """The spec in the words of the file, defaults filled in; what `--dry-run` compares."""
    sleep: Any = spec.sleep.mode.value
    if spec.sleep.mode is SleepMode.TIMERS:
        times = (("frozen", spec.sleep.frozen_s), ("light", spec.sleep.light_s), ("deep", spec.sleep.deep_s))
        sleep = ", ".join(f"{rung} {format_duration(at_s)}" for rung, at_s in times if at_s is not None)
    mtok = PICO_PER_UNIT / 10**6
    app = spec.app
    if app is not None:
        return {
            "app": app.source or app.image,
            "command": " ".join(app.command) or "found out",
            "port": app.port,
            # Values may be private: what is shown is which there are, and that one changed.
            "env": ", ".join(
                f"{name}={hashlib.sha256(value.encode()).hexdigest()[:8]}" for name, value in app.environment
            ),
            "secrets": ", ".join(app.secrets),
            "config_files": ", ".join(
                f"{file.path}={hashlib.sha256(file.text.encode()).hexdigest()[:8]}" for file in app.config_files
            ),
            "health": f"{app.health.path or 'a connection'}, every {format_duration(app.health.interval_s)}",
            "rollout": app.rollout.value,
            "replicas": f"{spec.replicas.least}..{spec.replicas.most}",
            "target.in_flight": spec.target_in_flight,
            "target.rps": app.target.rps,
            "target.p95_ms": round(app.target.p95_s * 1000, 3) if app.target.p95_s is not None else None,
            "target.cpu": app.target.cpu,
            "sleep": sleep,
            "volumes": ", ".join(
                f"{volume.name} at {volume.path}" + (f", {format_bytes(volume.bytes_max)}" if volume.bytes_max else "")
                for volume in app.volumes
            ),
            "schedule": app.schedule,
            "job": f"{app.job.retries} retries, {format_duration(app.job.limit_s)}" if app.job is not None else None,
            "public": app.public,
            "domains": ", ".join(app.domains),
            "isolation": app.isolation.value,
            "egress": ", ".join(app.egress),
            "egress_tier": app.egress_tier,
            "hold.wait_s": spec.hold.wait_s_max,
            "hold.queue": spec.hold.queue_max,
            "price.instance_hour": money_number(spec.price.instance_pico_per_hour),
            "resources.memory_bytes": spec.resources.memory_bytes or "unlimited",
            "resources.cpu": spec.resources.cpu or "unlimited",
            "resources.disk_bytes": app.disk_bytes or "unlimited",
        }
    return {
        "model": spec.model.url if spec.model is not None else None,
        "model.sha256": spec.model.sha256 if spec.model is not None else None,
        "endpoint": f"{spec.endpoint.url} ({spec.endpoint.model})" if spec.endpoint is not None else None,
        "engine": spec.engine,
        "replicas": f"{spec.replicas.least}..{spec.replicas.most}",
        "target.in_flight": spec.target_in_flight,
        "sleep": sleep,
        "price.input_per_mtok": spec.price.input_pico_per_token / mtok,
        "price.cached_input_per_mtok": spec.price.cached_input_pico_per_token / mtok,
        "price.output_per_mtok": spec.price.output_pico_per_token / mtok,
        "price.instance_hour": money_number(spec.price.instance_pico_per_hour),
        "hold.wait_s": spec.hold.wait_s_max,
        "hold.queue": spec.hold.queue_max,
        "resources.memory_bytes": spec.resources.memory_bytes or "auto",
        "resources.cpu": spec.resources.cpu,
        "context": spec.context_tokens,
        "embeddings": spec.embeddings,
    }


def difference(old: ServiceSpec | None, new: ServiceSpec) -> list[dict[str, Any]]:
    """What changes, field by field: [{"field", "from", "to"}]."""
    before = spec_view(old) if old is not None else {}
    return [
        {"field": field, "from": before.get(field), "to": value}
        for field, value in spec_view(new).items()
        if before.get(field) != value
    ]
