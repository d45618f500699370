"""What README and docs say is so: generated parts are fresh, links lead somewhere, commands and targets exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

from bastide.control.specfile import parse
from bastide.sim import scenario
from bastide.wiring.main import app

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
CODE = re.compile(r"`(bastide [^`]+)`")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts/make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_what_the_code_says() -> None:
    stale = [name_of(path) for path in make_docs().stale()]
    assert not stale, f"run scripts/docs and commit: {stale}"


def test_every_generated_part_is_in_some_page() -> None:
    text = "".join(path.read_text() for path in PAGES)
    assert all(f"<!-- generated: {part}, by" in text for part in make_docs().PARTS)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", path.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: {link}"


def commands(page: Path) -> Iterator[list[str]]:
    """Every `bastide …` of a page, in code and in shell blocks, split into words."""
    text = page.read_text()
    lines = [line for kind, block in FENCE.findall(text) if kind == "bash" for line in block.splitlines()]
    found = [line[line.index("bastide ") :] for line in lines if re.match(r"(\S+=\S+ |\S*/)?bastide ", line)]
    for line in (*found, *CODE.findall(FENCE.sub("", text))):
        words = shlex.split(line.partition("#")[0].replace("…", "").rstrip("& ;"), posix=True)
        if words[0] == "bastide":
            yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist_with_their_options(page: Path) -> None:
    for words in commands(page):
        command: Any = typer.main.get_command(app)
        known: set[str] = set()
        for word in words:
            if word == "--":  # what follows is another program's
                break
            if word.startswith("-"):
                assert word.partition("=")[0] in known | _options(command), (
                    f"{name_of(page)}: bastide {' '.join(words)}"
                )
            elif getattr(command, "commands", None):
                if word.endswith(".yaml") and words[0] == "sim":  # `bastide sim FILE` is `bastide sim run FILE`
                    word = "run"
                if word.isupper():  # a placeholder
                    break
                assert word in command.commands, f"{name_of(page)}: bastide {' '.join(words)}"
                known |= _options(command)
                command = command.commands[word]


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"-h"}


def test_make_targets_and_scripts_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        assert set(re.findall(r"\bmake (demo|test|setup|check|benchmarks|lock|clean)\b", text)) <= targets
        for script in re.findall(r"`?scripts/([a-z_-]+)\b", text):
            assert (ROOT / "scripts" / script).exists() or (ROOT / f"scripts/{script}.py").exists(), script


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=name_of)
def test_examples_are_valid(example: Path) -> None:
    assert parse(example.read_text()).services


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_specs_in_pages_are_valid(page: Path) -> None:
    for kind, block in FENCE.findall(page.read_text()):
        tree = (yaml.safe_load(block) or {}) if kind == "yaml" else {}
        if "services" in tree:
            read = partial(scenario.parse, folder=page.parent) if "locations" in tree else parse
            assert read(block).services


def test_the_examples_are_the_readmes(tmp_path: Path) -> None:
    """The demo and the README name these files."""
    for name in ("chat.yaml", "three.yaml"):
        assert (ROOT / "examples" / name).is_file()
