"""Can the namespace tier keep processes here? A small one is really written down and brought back, and its walls are compared.

A result that holds is remembered for this boot and these very programs, as those of the tiers are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bastide.adapters.isolation import criu, namespace
from bastide.adapters.isolation.folders import Folders, interpreter
from bastide.adapters.isolation.namespace import NamespaceIsolation
from bastide.adapters.isolation.selftest import memory_of
from bastide.adapters.runtime import boxback, boxcriu, boxstart, criuimages, proc
from bastide.domain.errors import BastideError
from bastide.domain.isolation import Box, Mount

TEST_S_MAX = 20.0
# Listens, holds memory, a thread, a file and an open one that is gone; says what it is, and once told `go` again, what it is then.
SUBJECT = r"""
import os, socket, sys, threading, time
os.setsid()
token = os.urandom(16).hex()
with open("/tmp/kept", "w") as file: file.write(token)
gone = open("/tmp/gone", "w+"); os.unlink("/tmp/gone"); gone.write(token); gone.flush()
listener = socket.create_server(("127.0.0.1", 8080))
threading.Thread(target=threading.Event().wait, daemon=True).start()
WALLS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid", "Groups")
def tell():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    gone.seek(0)
    facts = [token, open("/tmp/kept").read(), gone.read(), os.getpid(), threading.active_count(), listener.getsockname()[1]]
    facts += [" ".join(lines[name].split()) for name in WALLS]
    facts += [open("/proc/sys/user/max_user_namespaces").read().strip(), socket.gethostname()]
    print("subject:" + "|".join(map(str, facts)), flush=True)
tell()
while not os.path.exists("/run/bastide/host/go"): time.sleep(0.002)
socket.create_connection(("127.0.0.1", 8080), 5).close()
tell()
"""


def offer(isolation: NamespaceIsolation, folders: Folders) -> tuple[str, str]:
    """Let the tier keep processes where that is proven. Returns (why not, what would mend it), else ("", "")."""
    found = criu.find()
    if found.lacks:
        return found.lacks, found.mend
    made = criu.prepared(found, folders.data)
    if isinstance(made, str):
        return made, found.mend
    about = (found.identity(), isolation.identity(), proc.boot_id(), platform.release(), SUBJECT, _ours())
    key = hashlib.sha256("|".join(about).encode()).hexdigest()
    memory = memory_of("namespace-saving")
    with contextlib.suppress(OSError, ValueError):
        if json.loads(memory.read_text())["key"] == key:
            isolation.criu = made
            return "", ""
    isolation.criu = made
    wrong = _wrong(isolation, folders)
    if wrong:
        isolation.criu = None
        return wrong, found.mend
    with contextlib.suppress(OSError):
        memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = memory.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({"key": key}))
        part.replace(memory)
    return "", ""


def _ours() -> str:
    """What of our own does it, by content: a change of it is tested anew."""
    parts = (boxback, boxcriu, boxstart, criuimages, namespace)
    return hashlib.sha256(b"".join(Path(str(part.__file__)).read_bytes() for part in parts)).hexdigest()


def _wrong(isolation: NamespaceIsolation, folders: Folders) -> str:
    """What went wrong in a real round; empty: nothing did."""
    program, needs = interpreter()
    box = Box(
        f"probe-{secrets.token_hex(4)}",
        isolation.tier,
        (program, "-I", "-S", "-c", SUBJECT),
        environment=(("PATH", "/usr/bin:/bin"),),
        mounts=tuple(Mount(need, need) for need in needs),
    )
    image = folders.data / f"probe-{box.name}"
    try:
        folders.make()
        with _started(isolation.prepare(box)) as process:
            isolation.hush(box)
            before = _told(process)
            command = isolation.save_command(box, process.pid)
            assert command.save is not None
            order = json.dumps(dataclasses.asdict(command.save))
            ran = subprocess.run(
                [sys.executable, "-I", "-S", boxcriu.__file__, order],
                capture_output=True, text=True, timeout=TEST_S_MAX, check=False,
            )  # fmt: skip
            if ran.returncode != 0:
                return f"processes can't be written down: {' | '.join(ran.stdout.strip().splitlines()[-3:])[:400]}"
        shutil.move(isolation.saved_at(box), image)
        for file in (image, *image.iterdir()):
            file.chmod(0o755 if file is image else 0o644)
        isolation.clear(box)
        launch = isolation.prepare_restore(box, str(image))
        isolation.begin_again(box)
        with _started(launch) as process:
            after = _told(process)
        return "" if after == before else f"what is brought back is not what it was: {before} became {after}"[:400]
    except (BastideError, OSError, subprocess.TimeoutExpired, AssertionError) as error:
        return f"{error}"[:400]
    finally:
        shutil.rmtree(image, ignore_errors=True)
        with contextlib.suppress(OSError):
            isolation.clear(box)


@contextlib.contextmanager
def _started(launch: Any) -> Iterator[subprocess.Popen[bytes]]:
    """It ends with the block, whatever state it is in."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", boxstart.__file__, json.dumps(dataclasses.asdict(launch))], stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _told(process: subprocess.Popen[bytes]) -> str:
    """The subject's line. Raises OSError with what was said instead."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), True)
    said: list[str] = []
    deadline = time.monotonic() + TEST_S_MAX
    for line in _lines(process.stdout, deadline):
        if line.startswith("subject:"):
            return line
        said.append(line)
    raise OSError(f"it did not go on: {' | '.join(said[-3:])}")


def _lines(source: IO[bytes], deadline: float) -> Iterator[str]:
    """Each whole line, until the end or the deadline."""
    import select

    rest = b""
    while select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
        data = os.read(source.fileno(), 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
