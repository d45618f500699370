"""What a new sandbox begins with: the host's own programs, a Python, a Node, or a directory of an operator's own."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bastide.adapters.isolation.roots import foreign_interpreter
from bastide.domain.errors import NotFound, Unsupported
from bastide.domain.isolation import Mount
from bastide.inside import DIRECTORY, SHOWN_AT, arguments

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Template:
    """`root`: a directory that is `/` inside; empty: the host's /usr. `python`: the interpreter that code runs in."""

    name: str
    meaning: str
    root: str = ""
    python: str = ""
    path: str = PATH


class Templates:
    """`interpreter`: (program, directories it needs) of the Python that runs Bastide; `directory`: operators' own."""

    def __init__(self, interpreter: tuple[str, tuple[str, ...]], directory: Path) -> None:
        self._program, self._needs = interpreter
        self._directory = directory

    def all(self) -> tuple[Template, ...]:
        own = tuple(
            Template(folder.name, "a directory of your own", str(folder.resolve()), _python_of(folder))
            for folder in (sorted(self._directory.iterdir()) if self._directory.exists() else ())
            if folder.is_dir()
        )
        python = Template(
            "python", "Python, as Bastide itself runs on", python=self._program,
            path=f"{os.path.dirname(self._program)}:{PATH}",
        )  # fmt: skip
        found = [Template("base", "the host's own programs, read-only"), python]
        node = shutil.which("node")
        if node is not None and os.path.realpath(node).startswith("/usr/"):
            found.append(Template("node", "Node.js, from the host", python=self._program))
        return (*found, *own)

    def named(self, name: str) -> Template:
        """Raises NotFound, or Unsupported where the host lacks what it needs."""
        for template in self.all():
            if template.name == name:
                return template
        if name == "node":
            raise Unsupported("the template node needs Node.js in /usr on this machine: apt-get install nodejs")
        known = ", ".join(template.name for template in self.all())
        raise NotFound(f"there is no template {name!r}; there are {known}, and `snapshot:ID`")

    def agent(self, template: Template) -> tuple[tuple[str, ...], tuple[Mount, ...]]:
        """(how the agent is started inside, what it needs to see). Raises Unsupported where a root can't be run here."""
        inside = Mount(str(DIRECTORY), SHOWN_AT)
        if template.root:
            program, mounts = foreign_interpreter()
            return arguments(program), (*mounts, inside)
        return arguments((self._program,)), (*(Mount(need, need) for need in self._needs), inside)


def _python_of(root: Path) -> str:
    """A root's own Python, as the inside sees it; empty: it has none, and no stateful code can be run there."""
    found = (path for path in ("/usr/local/bin/python3", "/usr/bin/python3") if os.path.lexists(root / path[1:]))
    return next(found, "")
