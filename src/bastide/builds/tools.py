"""The programs that install dependencies: uv and npm. Owns how they are called; what they say goes to the build's log.

Only what is already built is installed, so that no stranger's code runs at build: wheels, and packages without their
scripts. What needs more is refused with a reason.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bastide.domain.errors import InvalidRequest, Unavailable, Unsupported

INSTALL_S_MAX = 900.0
SAID_MAX = 4000
Say = Callable[[str], None]
_AWAY = re.compile(r"dns error|error sending request|connection refused|timed out|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN|network", re.IGNORECASE)  # fmt: skip


def uv() -> str:
    """The program, from its wheel or PATH. Raises Unsupported."""
    try:
        import uv as wheel

        return str(wheel.find_uv_bin())
    except (ImportError, OSError):
        found = shutil.which("uv")
        if found is None:
            raise Unsupported(
                "Python apps are installed by uv, which is not here; run: pip install 'bastide[apps]' (from a clone: pip install '.[apps]'), and start Bastide again"
            ) from None
        return found


def node() -> str:
    """Raises Unsupported where there is none that a box can see."""
    found = shutil.which("node")
    if found is None or not os.path.realpath(found).startswith("/usr/"):
        raise Unsupported("Node apps need Node.js in /usr on this machine: apt-get install nodejs npm")
    return found


def run(argv: list[str], directory: Path, environment: dict[str, str], say: Say) -> None:
    """Run to the end; its lines go to `say`. Raises InvalidRequest or Unavailable with the last of them."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("BASTIDE_", "VIRTUAL_ENV", "PYTHON"))
    }
    process = subprocess.Popen(
        argv,
        cwd=directory,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        umask=0o022,  # what is installed is read by boxes, which run as somebody else
        start_new_session=True,
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            line = line.rstrip()
            if line:
                lines.append(line)
                say(line)
        status = process.wait(INSTALL_S_MAX)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if status != 0:
        told = "\n".join(lines)[-SAID_MAX:]
        short = " ".join(lines[-6:])[-700:] or f"{os.path.basename(argv[0])} ended with status {status}"
        if _AWAY.search(told):
            raise Unavailable(f"dependencies can't be fetched now: {short}", retry_after_s=10.0)
        if "no wheels" in told or "--no-build" in told or "only-binary" in told or "no-binary" in told:
            raise InvalidRequest(
                f"a dependency has no wheel for this machine, and nothing is built from source here: {short}"
            )
        raise InvalidRequest(f"dependencies can't be installed: {short}")


def make_venv(target: Path, interpreter: str, requirements: tuple[str, ...], cache: Path, say: Say) -> None:
    """A relocatable environment with these requirements in `target`, hard-linked from the shared cache."""
    program = uv()
    environment = {"UV_CACHE_DIR": str(cache), "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}
    listed = target.with_name(target.name + ".txt")
    listed.write_text("\n".join(requirements) + "\n")
    try:
        run(
            [program, "venv", "--quiet", "--relocatable", "--no-project", "--python", interpreter, str(target)],
            target.parent,
            environment,
            say,
        )
        if requirements:
            hashes = ["--require-hashes"] if all("--hash" in line for line in requirements) else []
            run(
                [program, "pip", "install", "--python", str(target / "bin/python"), "--only-binary", ":all:",
                 "--link-mode", "hardlink", "--compile-bytecode", *hashes, "--requirements", str(listed)],
                target.parent, environment, say,
            )  # fmt: skip
    finally:
        listed.unlink(missing_ok=True)


def exported(source: Path, work: Path, cache: Path, say: Say) -> tuple[str, ...]:
    """What uv.lock pins, as requirement lines with hashes."""
    work.mkdir(mode=0o700)
    try:
        for name in ("pyproject.toml", "uv.lock"):
            shutil.copyfile(source / name, work / name)
        environment = {"UV_CACHE_DIR": str(cache), "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}
        run(
            [uv(), "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate",
             "--offline", "--output-file", "requirements.txt"],
            work, environment, say,
        )  # fmt: skip
        text = (work / "requirements.txt").read_text()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    joined = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return tuple(re.sub(r"\s+", " ", line) for line in joined if line and not line.startswith("#"))


def install_modules(source: Path, target: Path, cache: Path, say: Say) -> None:
    """node_modules of package.json (and its lock) in `target`; no install script is run."""
    node()
    npm = shutil.which("npm")
    if npm is None:
        raise Unsupported("Node dependencies are installed by npm, which is not here: apt-get install npm")
    target.mkdir(mode=0o755)
    locked = False
    for name in ("package.json", "package-lock.json"):
        if (source / name).is_file() and not (source / name).is_symlink():
            shutil.copyfile(source / name, target / name)
            locked = name == "package-lock.json"
    if locked and re.search(r'"resolved":\s*"(file|git)', (target / "package-lock.json").read_text()):
        raise InvalidRequest(
            "package-lock.json takes packages from files or git; only those of the registry are installed here"
        )
    environment = {"npm_config_cache": str(cache), "npm_config_update_notifier": "false", "NODE_ENV": "production"}
    verb = ["ci"] if locked else ["install", "--package-lock=false"]
    run([npm, *verb, "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund"], target, environment, say)
    (target / "node_modules").mkdir(exist_ok=True)
