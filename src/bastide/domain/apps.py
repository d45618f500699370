"""What a user declares of an app: where its code comes from, how it is run, checked, rolled out and reached. Pure nouns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bastide.domain.isolation import Tier

PORT = 8080  # where an app listens inside its box unless it says otherwise; told to it as PORT
JOB_RETRIES_MAX = 100


class Rollout(StrEnum):
    """How a new generation takes over. Whatever the way, one that was never healthy takes no traffic."""

    ROLLING = "rolling"  # the old one serves until one instance of the new is healthy, and is drained then
    BLUE_GREEN = "blue-green"  # as many healthy new instances as are awake of the old, then all at once
    IMMEDIATE = "immediate"  # the old one is ended first: no two generations ever run side by side


@dataclass(frozen=True, slots=True)
class Health:
    """How an app is known to be well. `path` None: a connection is enough. Times in seconds.

    A start may take `grace_s`, and `failures` times `interval_s` more. Then it is asked every `interval_s` while it is
    awake, and is restarted after `failures` bad or late (`timeout_s`) answers in a row.
    """

    path: str | None = None
    grace_s: float = 5.0
    interval_s: float = 60.0
    timeout_s: float = 5.0
    failures: int = 3

    @property
    def start_s_max(self) -> float:
        return self.grace_s + self.failures * self.interval_s


@dataclass(frozen=True, slots=True)
class Target:
    """When one more instance is woken, beside the requests in flight (ServiceSpec.target_in_flight); None: not by this."""

    rps: float | None = None
    p95_s: float | None = None
    cpu: float | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory that outlives instances and generations: shown at `path`, holds at most `bytes_max` (None: unlimited)."""

    name: str
    path: str
    bytes_max: int | None = None


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file laid into the box, readable by the app alone."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Job:
    """Run to completion instead of serving: so often again where it fails, and ended after `limit_s`."""

    retries: int = 0
    limit_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class AppSpec:
    """One app. Exactly one of `source` (sha256:… of an uploaded directory) and `image` (the same of an uploaded image, or
    docker://… of one in a registry) is set.

    `command`: words to run; one word that holds spaces is for the shell; empty: found out at build. `secrets`: names,
    given as environment of the same name in capitals. `public`: who asks needs no key. `schedule`: a cron line.
    """

    source: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    port: int = PORT
    environment: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    config_files: tuple[ConfigFile, ...] = ()
    health: Health = field(default_factory=Health)
    rollout: Rollout = Rollout.ROLLING
    target: Target = field(default_factory=Target)
    volumes: tuple[Volume, ...] = ()
    public: bool = False
    domains: tuple[str, ...] = ()
    isolation: Tier = Tier.NAMESPACE
    egress: tuple[str, ...] = ()
    egress_tier: str = "proxy"  # see domain.sandboxes.EgressRules
    disk_bytes: int | None = None
    schedule: str = ""
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """What a source became on this node. `key` follows from everything that went into it, so the same is built once.

    Directories are on the host: `source` is shown at /app, each of `mounts` (host directory, where) beside it,
    read-only. `argv` and `path` (searched first) as they are inside. `reason`: how it was found out what to run.
    `root`: of an image, what is `/` inside; then `source` is not shown, `directory` is where it begins, `port` the one it
    says it listens on (None: it does not say), and `writes` where it expects to write.
    """

    key: str
    kind: str
    reason: str
    source: str
    argv: tuple[str, ...]
    mounts: tuple[tuple[str, str], ...] = ()
    path: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    build_bytes: int = 0
    root: str = ""
    directory: str = "/app"
    port: int | None = None
    writes: tuple[str, ...] = ()


def secret_variable(name: str) -> str:
    """The environment variable that carries a secret: `api-token` is API_TOKEN."""
    return name.upper().replace("-", "_")


def build_inputs(app: AppSpec) -> tuple[object, ...]:
    """What of an app decides its build."""
    return (app.source, app.image, app.command)


def launch_parts(app: AppSpec) -> tuple[object, ...]:
    """What of an app a running instance can't change."""
    return (
        app.source, app.image, app.command, app.port, app.environment, app.secrets, app.config_files, app.health,
        app.volumes, app.isolation, app.egress, app.egress_tier, app.disk_bytes, app.job,
    )  # fmt: skip
