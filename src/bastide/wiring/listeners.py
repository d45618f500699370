"""Sockets that a Bastide holds for those who serve them, so that whoever connects while one of these is restarted only waits."""

from __future__ import annotations

import contextlib
import os
import socket

from bastide.wiring.places import Places


def listen_at(path: str) -> socket.socket:
    """A listening Unix socket that outlives whoever serves it: who connects meanwhile waits."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.bind(path)
    line.listen(256)
    return line


def open_door(places: Places) -> socket.socket:
    """The way to the gateway for what runs in boxes: whoever is shown the directory may connect, and needs a key."""
    places.door.mkdir(mode=0o755, exist_ok=True)
    places.door.chmod(0o755)
    line = listen_at(str(places.door / "gateway"))
    (places.door / "gateway").chmod(0o666)
    return line


def hang_up(listeners: tuple[socket.socket, ...]) -> None:
    """End the wait of everyone who has connected: they are told that nobody answers, and may ask again."""
    for listener in listeners:
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
        listener.setblocking(True)
