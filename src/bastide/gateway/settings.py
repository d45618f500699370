"""What one gateway worker is told at its start. Owns the settings' shape; reads no environment."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Bounds of the client side. Times are seconds, sizes bytes, for each connection or request; None is never meant."""

    body_bytes_max: int = 32 * 2**20
    bodies_bytes_max: int = 256 * 2**20  # all bodies being read or forwarded at once in this worker
    header_bytes_max: int = 32 * 2**10
    header_s_max: float = 10.0
    body_s_max: float = 60.0
    idle_s_max: float = 120.0  # between requests, and for a client that stops reading its answer
    connections_max: int = 4096
    answer_s_max: float = 3600.0  # from forwarding to the last byte
    tunnel_drain_s: float = 30.0  # how long a WebSocket keeps an instance that is to be let go
    answer_bytes_max: int = 64 * 2**20  # of an answer that is not streamed


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One worker of a location's gateway.

    `listen_fd`: an inherited TCP socket that already listens; the supervisor keeps it open, so that connects queue in its
    backlog while a worker is restarted. `incarnation` is unique to this life of the worker: event ids and budget slices
    are kept by it, so that a successor can never spend what a killed worker may have spent.
    """

    worker: str
    incarnation: str
    rank: int
    count: int
    listen_fd: int
    control_link: str
    control_http: str
    table_cache: str
    sandboxes_http: str = ""  # of the sandboxes' own API; empty: there are none here
    sandboxes_doors: str = ""
    door_fd: int = -1  # an inherited Unix socket that listens too: what runs in boxes comes by it
    tls_certificate: str | None = None
    tls_key: str | None = None
    orphan_s: float = 60.0
    drain_s: float = 10.0
    sync_s: float = 0.1  # what a power cut may take from the journal
    tell_s: float = 1.0
    limits: GatewayLimits = field(default_factory=GatewayLimits)
