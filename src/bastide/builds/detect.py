"""Finding out what a directory is and how to run it. Reads files, runs nothing, follows no link.

Every answer has a reason that is shown to the user; where nothing fits, the error says what would.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bastide.domain.errors import InvalidRequest

TEXT_BYTES_MAX = 4 * 2**20
MODULES = ("main", "app", "api", "server", "asgi", "wsgi", "application", "app.main", "src.main", "app.app", "src.app")
FRAMEWORKS = {
    "FastAPI": "uvicorn", "Starlette": "uvicorn", "Quart": "uvicorn", "Litestar": "uvicorn",
    "Flask": "waitress", "Bottle": "waitress",
}  # fmt: skip
SERVERS = {
    "uvicorn": 'exec python -m uvicorn {target} --host 127.0.0.1 --port "$PORT" --proxy-headers --forwarded-allow-ips "*" --no-access-log',
    "waitress": 'exec python -m waitress --host 127.0.0.1 --port "$PORT" --trusted-proxy "*" {target}',
}
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Found:
    """`kind`: python, node or command. `requirements`: lines to install, None: nothing. `locked`: they carry hashes."""

    kind: str
    reason: str
    argv: tuple[str, ...]
    requirements: tuple[str, ...] | None = None
    lock_file: bool = False  # uv.lock decides the requirements
    node_modules: bool = False


def text_of(directory: Path, name: str) -> str | None:
    """A file's text; None where there is none (a link is none)."""
    path = directory / name
    if path.is_symlink() or not path.is_file() or any(parent.is_symlink() for parent in _between(directory, path)):
        return None
    if path.stat().st_size > TEXT_BYTES_MAX:
        raise InvalidRequest(f"{name} is over {TEXT_BYTES_MAX} bytes")
    return path.read_text(errors="replace")


def _between(directory: Path, path: Path) -> list[Path]:
    return [parent for parent in path.parents if directory in parent.parents]


def detect(directory: Path, command: tuple[str, ...]) -> Found:
    """Raises InvalidRequest, which says what is missing."""
    package, pyproject = text_of(directory, "package.json"), text_of(directory, "pyproject.toml")
    requirements = text_of(directory, "requirements.txt")
    python_files = any(path.is_file() and not path.is_symlink() for path in directory.glob("*.py"))
    if requirements is not None or pyproject is not None or (python_files and package is None):
        return _python(directory, command, requirements, pyproject)
    if package is not None:
        return _node(directory, command, package)
    if command:
        return Found("command", "a command was given, and there is nothing to install", command)
    raise InvalidRequest(
        "it can't be found out what to run: there is no requirements.txt, pyproject.toml, package.json or *.py. "
        "Add one, or say `command:` (on the command line: --command)"
    )


# --- Python ----------------------------------------------------------------------------------------------------------


def _python(directory: Path, command: tuple[str, ...], requirements: str | None, pyproject: str | None) -> Found:
    lines: tuple[str, ...] | None = None
    locked = pyproject is not None and text_of(directory, "uv.lock") is not None
    if locked:
        reason, lines = "uv.lock says what to install", project_requirements(pyproject or "")
    elif requirements is not None:
        reason, lines = "requirements.txt says what to install", plain_requirements(directory, "requirements.txt")
    elif pyproject is not None:
        reason, lines = "pyproject.toml says what to install", project_requirements(pyproject)
    else:
        reason = "Python files and nothing to install"
    names = {_name(line) for line in lines or ()}
    if command:
        return Found("python", f"{reason}; the command was given", command, lines, locked)
    target = _entry(directory)
    if target is None:
        raise InvalidRequest(
            "this is Python, but it can't be found out what to run: no `app = FastAPI()` (or Starlette, Flask, …) and no "
            "main.py was found. Say `command:`, for example: command: python server.py"
        )
    module, variable, framework = target
    if not framework:
        return Found("python", f"{reason}; {module}.py is run as it is", ("python", f"{module}.py"), lines, locked)
    server = "waitress" if FRAMEWORKS[framework] == "waitress" else "uvicorn"
    reason += f"; {variable} = {framework}(…) in {module.replace('.', '/')}.py is served by {server}"
    if server not in names and not any("standard" in line.partition("[")[2] for line in lines or ()):
        if locked:
            raise InvalidRequest(
                f"{module} is a {framework} app, but uv.lock has no {server} to serve it: `uv add {server}`, or say `command:`"
            )
        lines = (*(lines or ()), server)
        reason += f" ({server} was added)"
    shell = SERVERS[server].format(target=f"{module}:{variable}")
    return Found("python", reason, ("/bin/sh", "-c", shell), lines, locked)


def plain_requirements(directory: Path, name: str, seen: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The lines of a requirements file with those it includes. Only names from the index: no paths, no URLs, no options.

    What is installed is read by us, on the host: a line must never make us open a file of somebody else's.
    """
    text = text_of(directory, name)
    if text is None:
        raise InvalidRequest(f"{name} is not in the directory")
    if name in seen or len(seen) > 8:
        raise InvalidRequest(f"{name} includes itself")
    lines: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not line:
            continue
        option, _, value = line.partition(" ")
        if option in ("-r", "--requirement") or line.startswith("-r"):
            lines += plain_requirements(directory, (value if option != line else line[2:]).strip(), (*seen, name))
        else:
            lines.append(checked(line, name))
    return tuple(lines)


def project_requirements(text: str) -> tuple[str, ...]:
    """[project].dependencies. Raises InvalidRequest where they would have to be computed by running something."""
    try:
        project: dict[str, Any] = tomllib.loads(text).get("project", {})
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"pyproject.toml can't be read: {error}") from None
    if "dependencies" in project.get("dynamic", ()):
        raise InvalidRequest(
            "pyproject.toml computes its dependencies (dynamic); write them down, or add a requirements.txt"
        )
    return tuple(checked(str(line), "pyproject.toml") for line in project.get("dependencies", ()))


def checked(line: str, where: str) -> str:
    """One requirement that names a package of the index. Raises InvalidRequest."""
    match = _REQUIREMENT.match(line)
    if (
        match is None
        or "://" in line
        or re.match(r"[A-Za-z0-9._-]+\s*(\[[^\]]*\])?\s*@", line)
        or "/" in line.partition(";")[0].partition("--hash")[0]
    ):
        raise InvalidRequest(
            f"{where}: {line[:200]!r} is not taken: only packages of the index by name, with versions and hashes"
        )
    options = re.findall(r"(?:^|\s)(--?[a-z-]+)", line)
    if any(option != "--hash" for option in options):
        raise InvalidRequest(f"{where}: {line[:200]!r} is not taken: the only option of a line is --hash")
    return line


def _name(line: str) -> str:
    match = _REQUIREMENT.match(line)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def _entry(directory: Path) -> tuple[str, str, str] | None:
    """(module, variable, framework), or a main.py with neither."""
    others = sorted(path.stem for path in directory.glob("*.py") if not path.is_symlink())
    for module in (*MODULES, *(name for name in others if name not in MODULES and name.isidentifier())):
        text = text_of(directory, module.replace(".", "/") + ".py")
        if text is None:
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"{module}.py is not Python: {error}") from None
        for node in tree.body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if not isinstance(value, ast.Call):
                continue
            called = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if called in FRAMEWORKS and isinstance(target, ast.Name):
                return module, target.id, str(called)
    for module in ("main", "app", "server"):
        if text_of(directory, f"{module}.py") is not None:
            return module, "", ""
    return None


# --- Node ------------------------------------------------------------------------------------------------------------


def _node(directory: Path, command: tuple[str, ...], text: str) -> Found:
    try:
        package = json.loads(text)
        scripts = package.get("scripts") or {}
        dependencies: dict[str, Any] = {
            **(package.get("dependencies") or {}),
            **(package.get("optionalDependencies") or {}),
        }
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"package.json can't be read: {error}") from None
    for name, version in dependencies.items():
        if (
            not isinstance(version, str)
            or re.match(r"(file|link|portal|git|github|https?|workspace)[:+]", version)
            or "/" in version.removeprefix("npm:@")
        ):
            raise InvalidRequest(
                f"package.json: {name}: {version!r} is not taken: only packages of the registry by name and version"
            )
    reason = "package.json" + (f" with {len(dependencies)} dependencies" if dependencies else "")
    if scripts.get("build"):
        reason += "; its `build` script is not run here (upload what it makes)"
    if command:
        return Found("node", f"{reason}; the command was given", command, node_modules=bool(dependencies))
    if isinstance(scripts.get("start"), str):
        argv: tuple[str, ...] = ("/bin/sh", "-c", scripts["start"])
        return Found("node", f"{reason}; its start script is run", argv, node_modules=bool(dependencies))
    main = package.get("main")
    for name in (main if isinstance(main, str) else "", "server.js", "index.js", "app.js", "server.mjs", "index.mjs"):
        if name and text_of(directory, name.removeprefix("./")) is not None:
            return Found("node", f"{reason}; node runs {name}", ("node", name), node_modules=bool(dependencies))
    raise InvalidRequest(
        "package.json has no `start` script and no `main`, and there is no server.js or index.js: add one, or say `command:`"
    )
