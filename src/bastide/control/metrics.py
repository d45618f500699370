"""Metrics in Prometheus' format: what control knows of services, and what gateways last told of requests."""

from __future__ import annotations

import resource

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from bastide.control.state import Control


def exposition(control: Control, only: str | None) -> str:
    """The text of /metrics; of one project `only`, or of the whole location. Built at each scrape: nothing is kept."""
    registry = CollectorRegistry()
    labels = ("project", "service")
    phases = Gauge("bastide_instances", "Instances by phase", (*labels, "phase"), registry=registry)
    memory = Gauge("bastide_instance_memory_bytes", "Memory held by instances", labels, registry=registry)
    for report in control.loop.reports.values():
        if only not in (None, report.project):
            continue
        phases.labels(report.project, report.service, report.phase.value).inc()
        memory.labels(report.project, report.service).inc(report.memory_bytes)
    in_flight = Gauge("bastide_requests_in_flight", "Requests being answered", labels, registry=registry)
    queued = Gauge("bastide_requests_held", "Requests that wait for their service", labels, registry=registry)
    requests = Counter("bastide_requests", "Requests taken", labels, registry=registry)
    errors = Counter("bastide_request_errors", "Requests that ended in an error", labels, registry=registry)
    for load in control.loads.values():
        for name, told in load.get("services", {}).items():
            project, _, service = name.partition("/")
            if only not in (None, project):
                continue
            in_flight.labels(project, service).inc(told.get("in_flight", 0))
            queued.labels(project, service).inc(told.get("queued", 0))
            requests.labels(project, service).inc(told.get("requests_total", 0))
            errors.labels(project, service).inc(told.get("errors_total", 0))
    if only is None:
        _location(control, registry)
    return generate_latest(registry).decode()


def _location(control: Control, registry: CollectorRegistry) -> None:
    """What is of no project."""
    budget = Gauge("bastide_device_budget_bytes", "What the device may hold", registry=registry)
    budget.set(control.settings.budget_bytes)
    gateways = Gauge("bastide_gateway_workers", "Gateway workers on the line", registry=registry)
    gateways.set(len(control.gateways))
    cpu = Gauge("bastide_control_cpu_seconds", "Processor time of the control process", registry=registry)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu.set(used.ru_utime + used.ru_stime)
