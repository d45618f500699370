"""What can be seen from outside of a Bastide that runs: whether it does, whether it answers, what it last said."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bastide.wiring.places import Places

KEEPER_S_MAX = 15.0


def probe(url: str, path: str) -> bool:
    """Whether GET url+path answers 200."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl._create_unverified_context()  # only asks our own process whether it is up
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=2.0, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def answers(socket_path: str) -> bool:
    """Whether somebody listens there: a killed control leaves its socket's file behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            line.connect(socket_path)
        except OSError:
            return False
        return True


def end_keeper(socket_path: str) -> None:
    """An agent ends its keeper itself; one that was killed, or not ready yet, could not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line, contextlib.suppress(OSError):
        line.settimeout(KEEPER_S_MAX)
        line.connect(socket_path)
        line.sendall(b'{"n":0,"op":"quit"}\n')
        while line.recv(4096):
            pass


def read_running(places: Places) -> dict[str, Any] | None:
    """What `running.json` says; None where nothing was written, or it is damaged."""
    try:
        found: dict[str, Any] = json.loads(places.running.read_text())
        return found
    except (OSError, ValueError):
        return None


def start_ticks(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def last_line(path: Path) -> str:
    try:
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "nothing"
    return lines[-1] if lines else "nothing"
