"""Names that stand for several hosts, as this machine is set up: `pypi` is wherever its own package tools look.

Nothing is written down here: what a machine's tools use is asked of them, so that a mirror inside a border just works.
"""

from __future__ import annotations

import configparser
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit


def sets(named: tuple[str, ...] = ()) -> Mapping[str, tuple[str, ...]]:
    """Sets by name. `named`: an operator's own, each `NAME=HOST,HOST`."""
    machine = {"pypi": _python_hosts(), "npm": _node_hosts()}
    found = {name: hosts for name, hosts in machine.items() if hosts}
    for entry in named:
        name, _, hosts_text = entry.partition("=")
        if name and hosts_text:
            found[name] = tuple(host.strip() for host in hosts_text.split(",") if host.strip())
    return found


def _python_hosts() -> tuple[str, ...]:
    urls = [os.environ.get(name, "") for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")]
    for file in (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
        parser = configparser.ConfigParser()
        with contextlib.suppress(configparser.Error, OSError):
            parser.read(file)
            urls.append(parser.get("global", "index-url", fallback=""))
    hosts = _hosts(urls)
    if hosts:
        return hosts
    with contextlib.suppress(ImportError, AttributeError):
        from pip._internal.models.index import PyPI

        return (PyPI.netloc, PyPI.file_storage_domain)
    return ()


def _node_hosts() -> tuple[str, ...]:
    urls = [
        os.environ.get("npm_config_registry", ""),  # noqa: SIM112  npm's own spelling
        os.environ.get("NPM_CONFIG_REGISTRY", ""),
    ]
    with contextlib.suppress(OSError):
        for line in (Path.home() / ".npmrc").read_text().splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "registry":
                urls.append(value.strip())
    return _hosts(urls)


def _hosts(urls: list[str]) -> tuple[str, ...]:
    found = []
    for url in urls:
        parts = urlsplit(url.strip())
        if parts.hostname:
            found.append(f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname)
    return tuple(dict.fromkeys(found))
