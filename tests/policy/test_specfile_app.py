"""Apps in the spec file: what is understood, what is refused and how that is said."""

from __future__ import annotations

import pytest

from bastide.control.specfile import parse
from bastide.domain.apps import ConfigFile, Health, Job, Rollout, Volume
from bastide.domain.errors import InvalidSpec
from bastide.domain.isolation import Tier
from bastide.domain.sources import Entry, digest_of, is_digest, path_problem
from bastide.domain.spec import ServiceKind, launch_key

WHOLE = """
services:
  api:
    app: ./api
    command: uvicorn main:app
    port: 9000
    env: {A: 1, DEBUG: true}
    secrets: [api-token]
    config_files: {app.toml: "x = 1", /etc/y: z}
    health: {path: /health, grace: 2s, interval: 1s, timeout: 500ms, failures: 2}
    rollout: blue-green
    replicas: 0..3
    target: {in_flight: 7}
    volumes: [{name: data, path: /data, size: 1GiB}]
    public: true
    domains: [API.example.org]
    isolation: gvisor
    egress: [tools.example, 10.0.0.0/8]
    resources: {memory: 256MiB, cpu: 0.5, disk: 64MiB}
    job: {retries: 2, time_limit: 5m}
    schedule: "*/5 * * * *"
"""


def test_every_word_is_understood() -> None:
    (service,) = parse(WHOLE).services
    app = service.app
    assert app is not None and service.kind is ServiceKind.APP and service.target_in_flight == 7
    assert app.source == "./api" and app.command == ("/bin/sh", "-c", "uvicorn main:app") and app.port == 9000
    assert app.environment == (("A", "1"), ("DEBUG", "true")) and app.secrets == ("api-token",)
    assert app.config_files == (ConfigFile("/etc/app/app.toml", "x = 1"), ConfigFile("/etc/y", "z"))
    assert app.health == Health("/health", 2.0, 1.0, 0.5, 2) and app.health.start_s_max == 4.0
    assert app.rollout is Rollout.BLUE_GREEN and app.volumes == (Volume("data", "/data", 2**30),)
    assert app.public and app.domains == ("api.example.org",) and app.isolation is Tier.GVISOR
    assert app.job == Job(2, 300.0) and app.schedule == "*/5 * * * *" and app.disk_bytes == 64 * 2**20
    assert service.resources.memory_bytes == 256 * 2**20 and service.resources.cpu == 0.5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("app: 3", "must be a directory"),
        ("{app: ., image: x}", "not both"),
        ("{app: ., model: builtin://tiny}", "is for models"),
        ("{model: builtin://tiny, port: 80}", "is for apps"),
        ("{app: ., env: {PORT: 1}}", "set by Bastide itself"),
        ("{app: ., env: {TOKEN: x}, secrets: [token]}", "set twice"),
        ("{app: ., volumes: [{name: a, path: data}]}", "absolute path"),
        ("{app: ., volumes: [{name: a, path: /a}, {name: a, path: /b}]}", "same name"),
        ("{app: ., config_files: {../x: y}}", "can't be laid there"),
        ("{app: ., schedule: 'every day'}", "no cron line"),
        ("{app: ., domains: [here]}", "no host name"),
        ("{app: ., isolation: process}", "not one of"),
        ("{app: ., health: {path: health}}", "no path"),
        ("{app: ., target: {p95_ms: 0}, replicas: 0..3}", "p95_ms"),
        ("{app: ., resources: {disk: 0}}", "line 1: a.resources.disk: 0 is too little"),
        ("{app: ., resources: {memory: 1MiB}}", "line 1: a.resources.memory: '1MiB' is too little"),
        ('{app: ., env: {A: "x\\0y"}}', "line 1: a.env.A: holds a zero byte"),
        ('{app: ., command: "a\\0b"}', "line 1: a.command: holds a zero byte"),
        ('{app: ., command: [a, "b\\0"]}', "line 1: a.command: holds a zero byte"),
        ('{app: ., config_files: {"a\\0b": x}}', "can't be laid there"),
        ('{app: ., volumes: [{name: a, path: "/a\\0b"}]}', "absolute path"),
        ("{app: ., env: {A: %s}}" % ("x" * 200_000), "line 1: a.env.A: is over 128 KiB"),
        ("{app: ., command: %s}" % ("x" * 200_000), "line 1: a.command: is over 128 KiB"),
        ("{app: ., env: {A: %s, B: %s, C: %s}}" % (("x" * 100_000,) * 3), "line 1: a.env: holds more than 256 KiB"),
    ],
)
def test_what_is_refused(line: str, said: str) -> None:
    text = "services: {a: %s}" % (line if line.startswith("{") else "{%s}" % line)  # noqa: UP031
    with pytest.raises(InvalidSpec) as refused:
        parse(text)
    assert said in str(refused.value)


def test_the_least_and_the_longest_are_taken() -> None:
    longest = "x" * (128 * 1024 - len("A=") - 1)
    text = "services: {a: {app: ., env: {A: %s}, resources: {memory: 64MiB, disk: 1MiB}}}" % longest  # noqa: UP031
    (service,) = parse(text).services
    assert service.app is not None and service.app.environment == (("A", longest),)


def test_reaching_it_differently_starts_nothing_anew() -> None:
    """Domains, being public and the way to roll out are not what runs."""
    first = parse("services: {a: {app: ./x}}").services[0]
    second = parse("services: {a: {app: ./x, public: true, domains: [a.b], rollout: immediate}}").services[0]
    third = parse("services: {a: {app: ./y}}").services[0]
    assert launch_key(first) == launch_key(second) != launch_key(third)


def test_a_digest_is_of_names_modes_and_bytes_in_any_order() -> None:
    entries = [Entry("a", "file", "1"), Entry("b/c", "program", "2"), Entry("l", "link", "a")]
    assert digest_of(entries) == digest_of(reversed(entries)) and is_digest(digest_of(entries))
    assert digest_of(entries) != digest_of([*entries[:2], Entry("l", "link", "b")])
    assert digest_of([Entry("ab", "file", "c")]) != digest_of([Entry("a", "file", "bc")])


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\0b"])
def test_no_entry_leads_out_of_its_directory(path: str) -> None:
    assert path_problem(path) is not None
