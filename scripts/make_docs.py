"""The generated parts of docs/: each stands between two markers and is made from the code it describes.

Owns what is between the markers and nothing else. Must give the same text on every machine and Python.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import typer

from bastide.adapters.isolation import seccomp
from bastide.control.http.application import application
from bastide.control.specfile import FIELDS
from bastide.control.state import Control
from bastide.domain import errors
from bastide.domain.lifecycle import TRANSITIONS, Phase
from bastide.gateway.application import MethodNotAllowed
from bastide.gateway.request import HeadTooLarge, RequestTimeout
from bastide.sandboxes.house import House
from bastide.sandboxes.http.application import application as sandboxes_application
from bastide.wiring.main import app

DOCS = Path(__file__).resolve().parent.parent / "docs"
PART = re.compile(r"(<!-- generated: ([a-z-]+), by scripts/docs -->\n)(.*?)(<!-- end of generated -->)", re.DOTALL)


def spec_fields() -> str:
    """The keys of a service."""
    rows = [(f"`{field.name}`", _cell(field.values), f"`{field.default}`", field.meaning) for field in FIELDS]
    return _table(("key", "values", "default", "meaning"), rows)


def lifecycle_diagram() -> str:
    """Every transition, as a picture."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> off"]
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for (phase, happening), after in TRANSITIONS.items():
        arrows.setdefault((phase, after), []).append(happening.value)
    lines += [f"    {a.value} --> {b.value}: {', '.join(happenings)}" for (a, b), happenings in arrows.items()]
    return "\n".join([*lines, "```"])


def lifecycle_table() -> str:
    """Every transition, as rows."""
    rows = [(phase.value, happening.value, after.value) for (phase, happening), after in TRANSITIONS.items()]
    return _table(("an instance that is", "to which happens", "is then"), rows)


def error_tree() -> str:
    """The tree as it is drawn in the code."""
    doc = inspect.cleandoc(errors.__doc__ or "").splitlines()
    first = next(number for number, line in enumerate(doc) if line.strip() == "BastideError")
    last = max(number for number, line in enumerate(doc) if "──" in line)
    return "\n".join(["```text", *(line.removeprefix("    ") for line in doc[first : last + 1]), "```"])


def error_codes() -> str:
    """What a client reads."""
    rows = []
    # Those that only HTTP has are the gateway's own; the tree's come from the domain, whatever else is imported.
    for kind in (*_leaves(errors.BastideError), MethodNotAllowed, RequestTimeout, HeadTooLarge):
        fault = "the caller's" if issubclass(kind, errors.CallerError) else "the engine's"
        fault = "Bastide's or its machine's" if issubclass(kind, errors.PlatformError) else fault
        rows.append((f"`{kind.code}`", str(kind.status), f"`{kind.kind}`", fault, "yes" if kind.retry_helps else "no"))
    return _table(("code", "status", "type", "whose fault", "does a retry help"), rows)


def _leaves(kind: type[errors.BastideError]) -> Iterator[type[errors.BastideError]]:
    if "code" in vars(kind) and kind is not errors.BastideError:
        yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _leaves(child)


def control_api() -> str:
    """Every call of the control API, from its OpenAPI document."""
    return _calls(application(cast(Control, None)).openapi())


def sandbox_api() -> str:
    """Every call of the sandboxes' API, the same way."""
    return _calls(sandboxes_application(cast(House, None)).openapi())


def isolation_attempts() -> str:
    """What the escape suite tries in every tier, from the suite itself."""
    spec = importlib.util.spec_from_file_location("escapes", DOCS.parent / "tests/sandboxes/escapes.py")
    assert spec is not None and spec.loader is not None
    escapes = importlib.util.module_from_spec(spec)
    sys.modules["escapes"] = escapes
    spec.loader.exec_module(escapes)
    rows = []
    for attempt in escapes.ATTEMPTS:
        words = [
            f"may: {attempt.allowed_in[tier]}" if tier in attempt.allowed_in else "gets nothing"
            for tier in ("namespace", "gvisor")
        ]
        rows.append((f"{attempt.name}", *words))
    return _table(("a program inside", "namespace", "gvisor"), rows)


def refused_calls() -> str:
    """The system calls that the namespace tier's filter refuses."""
    return "\n".join(["```text", *textwrap.wrap(" ".join(sorted(seccomp.REFUSED)), 118), "```"])


def _calls(document: dict[str, Any]) -> str:
    parts, tag = [], ""
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if call["tags"][0] != tag:
                tag = call["tags"][0]
                parts.append(f"### {tag[0].upper()}{tag[1:]}")
            parts.append(f"**`{method.upper()} {path}`**  \n{_described(call)}")
            rows = [(f"`{name}`", where, text) for name, where, text in _inputs(call, document)]
            if rows:
                parts.append(_table(("input", "in", "meaning"), rows))
    return "\n\n".join(parts)


def _described(call: dict[str, Any]) -> str:
    return " ".join(str(call.get("description") or call["summary"] + ".").split())


def _inputs(call: dict[str, Any], document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for given in call.get("parameters", ()):
        if given["name"] != "project" or given["in"] == "path":
            yield given["name"], given["in"], _kind(given["schema"])
    body = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if "$ref" in body:
        schema = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
        for name, field in schema["properties"].items():
            needed = "" if name not in schema.get("required", ()) else ", required"
            text = f"{_kind(field)}{needed}"
            yield name, "body", f"{text}. {field['description']}" if "description" in field else text


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kind = str(schema.get("type", "any"))
    return f"list of {_kind(schema['items'])}" if kind == "array" else kind


def commands() -> str:
    """Every subcommand, from the command itself."""
    parts: list[str] = []
    _command(typer.main.get_command(app), "bastide", parts)
    return "\n\n".join(parts)


def _command(command: Any, name: str, parts: list[str]) -> None:
    children = getattr(command, "commands", {})
    rows = [row for row in map(_parameter, command.params) if row is not None]
    arguments = " ".join(str(_word(p)) for p in command.params if p.param_type_name == "argument")
    line = " ".join(
        part for part in (name, "[OPTIONS]" if rows else "", arguments, "COMMAND" if children else "") if part
    )
    parts.append(f"### `{name}`\n\n```text\n{line}\n```\n\n{inspect.cleandoc(command.help or '')}")
    if rows:
        parts.append(_table(("option", "meaning"), rows))
    for child in sorted(children):
        _command(children[child], f"{name} {child}", parts)


def _word(parameter: Any) -> str:
    word = str(parameter.metavar or parameter.name).strip("{}")
    return word if parameter.required else f"[{word}]"


def _parameter(parameter: Any) -> tuple[str, str] | None:
    if parameter.param_type_name == "argument" or parameter.name in ("install_completion", "show_completion"):
        return None
    names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    default = "" if parameter.default in (None, False, True, "") or callable(parameter.default) else parameter.default
    text = str(getattr(parameter, "help", "") or "")
    return names, _cell(f"{text} Default: {default}." if default else text)


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PARTS: dict[str, Callable[[], str]] = {
    "spec-fields": spec_fields,
    "lifecycle-diagram": lifecycle_diagram,
    "lifecycle-table": lifecycle_table,
    "error-tree": error_tree,
    "error-codes": error_codes,
    "control-api": control_api,
    "commands": commands,
    "sandbox-api": sandbox_api,
    "isolation-attempts": isolation_attempts,
    "refused-calls": refused_calls,
}


def made_anew(text: str) -> str:
    """A document with its generated parts made anew. KeyError where it asks for one that nobody makes."""
    return PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[4]}", text)


def stale() -> list[Path]:
    """Documents whose generated parts are not what the code says now."""
    return [path for path in sorted(DOCS.rglob("*.md")) if made_anew(path.read_text()) != path.read_text()]


def main() -> int:
    changed = stale()
    for path in changed:
        print(f"{path.relative_to(DOCS.parent)}: " + ("is out of date" if "--check" in sys.argv else "made anew"))
        if "--check" not in sys.argv:
            path.write_text(made_anew(path.read_text()))
    return 1 if changed and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
