"""What `bastide up` was told, written down once for all the processes it starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Launch:
    """`listen`: HOST:PORT. `budget_bytes`: of the node's device. `lease_s`: how long engines live on unclaimed."""

    data: str
    listen: str
    url: str
    budget_bytes: int
    threads: int
    node: str
    workers: int = 1
    lease_s: float = 60.0
    llama_server: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    rungs: tuple[str, ...] = ()
    sandbox_memory_bytes: int = 0
    sandbox_spares: int = 2
    egress_sets: tuple[str, ...] = ()
