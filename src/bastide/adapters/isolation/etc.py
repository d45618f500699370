"""The few files of /etc that a box sees: made by us, plus what of the host's is the same everywhere and holds no secret."""

from __future__ import annotations

import os
from pathlib import Path

USER = 1000
HOME = "/home/user"
# Shown from the host where they are: certificates, the linker's cache, Debian's alternatives, the time zone, media types.
FROM_HOST = (
    "/etc/ssl/certs", "/etc/ca-certificates", "/etc/pki", "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types", "/etc/protocols", "/etc/services",
)  # fmt: skip
FILES = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nuser:x:{USER}:{USER}:user:{HOME}:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": f"root:x:0:\nuser:x:{USER}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost box\n::1 localhost\n",
    "resolv.conf": "# No resolver: names are resolved by the egress proxy, where egress is allowed at all.\n",
    "resolv.packet.conf": "nameserver 127.0.0.53\noptions timeout:2 attempts:2\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "hostname": "box\n",
}


def source_of(name: str, walled: bool) -> str | None:
    """Which of FILES is shown as /etc/`name`; None: none is. `walled`: behind a wall that answers for names."""
    if name == "resolv.packet.conf":
        return None
    return "resolv.packet.conf" if walled and name == "resolv.conf" else name


def make(directory: Path) -> None:
    """Write them, where they are not written yet."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    for name, text in FILES.items():
        file = directory / name
        if not file.exists() or file.read_text() != text:
            part = directory / f".{name}.{os.getpid()}"
            part.write_text(text)
            part.chmod(0o644)
            part.replace(file)
