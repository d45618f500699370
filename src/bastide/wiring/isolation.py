"""Which tiers of isolation hold here, tried, for one use of them: apps and sandboxes never clear up after each other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bastide.adapters.isolation import savetest
from bastide.adapters.isolation.folders import Folders
from bastide.adapters.isolation.groups import Groups
from bastide.adapters.isolation.gvisor import GvisorIsolation
from bastide.adapters.isolation.namespace import NamespaceIsolation
from bastide.adapters.isolation.selftest import tested
from bastide.domain.isolation import Tier, TierReport
from bastide.ports.isolation import Isolation
from bastide.wiring.places import Places

MICROVM = TierReport(
    Tier.MICROVM, False, "no adapter boots a machine yet; the tier is refused", mend="ask for gvisor instead"
)
PROCESS = TierReport(Tier.PROCESS, True, "for engines we ship; promises nothing")


def isolations(places: Places, use: str) -> tuple[Mapping[Tier, Isolation], tuple[TierReport, ...]]:
    """(those that hold, what every tier's test said). `use`: "apps" or "sandboxes"."""
    folders = folders_of(places, use)
    found: dict[Tier, Isolation] = {}
    reports = [PROCESS]
    for isolation in (NamespaceIsolation(folders), GvisorIsolation(folders)):
        report = tested(isolation, folders)
        if report.holds and use == "apps" and isinstance(isolation, NamespaceIsolation):
            report = _with_saving(report, isolation, folders)
        reports.append(report)
        if report.holds:
            found[isolation.tier] = isolation
    return found, (*reports, MICROVM)


def _with_saving(report: TierReport, isolation: NamespaceIsolation, folders: Folders) -> TierReport:
    """Sandboxes are not kept by it: they are asked to be saved and go on at once, and to be several at once, which is not tried yet."""
    lacks, mend = savetest.offer(isolation, folders)
    return replace(report, pauses=isolation.pauses, pauses_not=lacks, pauses_mend=mend)


def dissolve(places: Places, use: str) -> None:
    """At the end of Bastide: the folder of its control groups goes too, once it is empty."""
    Groups(f"{places.private_name}-{use}").remove_all()


def folders_of(places: Places, use: str) -> Folders:
    groups = Groups(f"{places.private_name}-{use}")
    folders = Folders(places.isolation / use, places.sockets / use[0], groups)
    folders.make()
    return folders


def examined() -> tuple[TierReport, ...]:
    """What the tests of every tier say on this machine; leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="bastide-doctor-") as folder:
        places = Places(Path(folder))
        groups = Groups(f"doctor-{os.getpid()}")
        folders = Folders(places.isolation, places.data / "s", groups)
        try:
            namespace = NamespaceIsolation(folders)
            tests = (tested(namespace, folders), tested(GvisorIsolation(folders), folders))
            if tests[0].holds:
                tests = (_with_saving(tests[0], namespace, folders), *tests[1:])
        finally:
            groups.remove_all()
    return (PROCESS, *tests, MICROVM)
