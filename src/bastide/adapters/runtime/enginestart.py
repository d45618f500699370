"""How a forked process becomes an engine: plain steps. Standard library only, loaded by path.

Runs in the fork of a single-threaded parent, and never leaves a descriptor of that parent open.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

PR_SET_PDEATHSIG = 1
OOM_SCORE = "500"  # engines go before Bastide's own processes when memory runs out
LIBC = ctypes.CDLL(None, use_errno=True)


def become_engine(
    launch: dict[str, Any],
    module: ModuleType | None,
    events: int,
    orders: int,
    keeper: int,
    page_out_self: Callable[[], None],
) -> None:
    """In the fork: leave everything of the keeper behind, then be the engine. Never returns.

    `module`: a child script of ours, already prepared; None: a program is run as it is. `events`, `orders`: pipes.
    """
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for inherited in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(inherited, signal.SIG_DFL)
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(code)  # it ended before the kernel was asked to end us with it
        os.setsid()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(OOM_SCORE)
        log = os.open(launch["log"] or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        # Everything we keep goes to a low number, then the rest is closed: no socket of the keeper lives on in an engine.
        high = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in (nothing, log, log, events, orders)]
        for low, number in enumerate(high):
            os.dup2(number, low)
        os.closerange(5, 65536)
        os.environ.update(dict(launch["environment"]))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(launch["socket"])
        if launch["state_directory"]:
            os.makedirs(launch["state_directory"], mode=0o700, exist_ok=True)
        if module is None:
            os.set_inheritable(3, False)
            os.set_inheritable(4, False)
            os.execve(launch["argv"][0], launch["argv"], os.environ)

        def obey() -> None:
            while os.read(4, 1) == b"p":
                page_out_self()
                os.write(3, b"p")

        def ready() -> None:
            threading.Thread(target=obey, daemon=True).start()
            os.write(3, b"r")

        def wait() -> None:
            while True:
                signal.pause()

        module.run(launch["config"], ready, wait)
        code = 0
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)
