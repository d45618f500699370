"""What of a directory is deployed, and how a spec's text is rewritten: pure of any server."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from bastide.builds.sources import Sources
from bastide.cli.apps import _named, pairs, text_of_directory
from bastide.domain.errors import InvalidRequest
from bastide.sdk.source import pack


def laid_out(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    return directory


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ("", ["a.py", "b/c.txt", "b/d/e.log", "logs/x"]),
        ("*.log", ["a.py", "b/c.txt", "logs/x"]),
        ("logs/", ["a.py", "b/c.txt", "b/d/e.log"]),
        ("/b", ["a.py", "logs/x"]),
        ("b/*", ["a.py", "logs/x"]),
        ("b/**/e.log", ["a.py", "b/c.txt", "logs/x"]),
        ("**/d", ["a.py", "b/c.txt", "logs/x"]),
        ("*\n!a.py", ["a.py"]),
        ("# none\n\n[ab].py", ["b/c.txt", "b/d/e.log", "logs/x"]),
        ("c.txt/", ["a.py", "b/c.txt", "b/d/e.log", "logs/x"]),
        ("[", ["a.py", "b/c.txt", "b/d/e.log", "logs/x"]),
    ],
)
def test_ignored_as_git_would(tmp_path: Path, rules: str, left: list[str]) -> None:
    laid_out(
        tmp_path, "a.py", "b/c.txt", "b/d/e.log", "logs/x", ".git/config", "node_modules/m/i.js", "x/__pycache__/y.pyc"
    )
    (tmp_path / ".gitignore").write_text(rules)
    assert [entry.path for entry in pack(tmp_path).entries] == left


def test_our_own_file_comes_after_gits_and_each_directory_has_its_own(tmp_path: Path) -> None:
    laid_out(tmp_path, "a.py", "b/keep.log", "b/drop.txt")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / ".bastideignore").write_text("!keep.log\n")
    (tmp_path / "b/.gitignore").write_text("/drop.txt\n")
    assert [entry.path for entry in pack(tmp_path).entries] == ["a.py", "b/keep.log"]


def test_both_ends_agree_on_the_digest(tmp_path: Path) -> None:
    source = laid_out(tmp_path / "app", "a.py", "b/c.sh", "ü/ß.txt")
    (source / "b/c.sh").chmod(0o700)
    os.symlink("a.py", source / "link")
    packed = pack(source)
    sources = Sources(tmp_path / "kept")
    with packed.tar() as tar:
        sources.take(packed.digest, io.BytesIO(tar.read()))
    assert sources.has(packed.digest) and pack(sources.path(packed.digest)).digest == packed.digest
    (source / "a.py").touch()
    assert pack(source).digest == packed.digest, "a time is no content"
    (source / "a.py").write_text("changed")
    assert pack(source).digest != packed.digest


def test_what_can_t_be_packed(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no directory"):
        pack(tmp_path / "none")
    with pytest.raises(InvalidRequest, match="nothing to deploy"):
        pack(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidRequest, match="nothing to deploy"):
        pack(tmp_path)


@pytest.mark.parametrize("what", ["file", "link", "folder"])
def test_a_name_that_is_not_utf_8_is_refused_by_name(tmp_path: Path, what: str) -> None:
    bad = os.fsdecode(b"\xff\xfebad")
    laid_out(tmp_path, "a.py")
    if what == "link":
        os.symlink(bad, tmp_path / "link")
    elif what == "folder":
        (tmp_path / bad).mkdir()
        (tmp_path / bad / "x").touch()
    else:
        (tmp_path / bad).touch()
    with pytest.raises(
        InvalidRequest, match=r"(xff.xfebad(/x)?' has|'link' leads to) a name.* not UTF-8.*\.bastideignore"
    ) as refused:
        pack(tmp_path)
    refused.value.message.encode()
    (tmp_path / ".bastideignore").write_text("*bad\nlink\n")
    assert [entry.path for entry in pack(tmp_path).entries] == ["a.py"]


def test_a_directory_becomes_a_spec(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "My App!").mkdir()
    options = {"name": None, "command": "x", "env": {"A": "b"}, "public": True, "secrets": [], "port": None}
    text = text_of_directory(tmp_path / "My App!", options)
    assert yaml.safe_load(text) == {
        "services": {"my-app": {"app": ".", "command": "x", "env": {"A": "b"}, "public": True}}
    }
    with pytest.raises(InvalidRequest, match="--name"):
        text_of_directory(tmp_path, {"name": "Bad Name"})


def test_only_directories_of_apps_are_found_in_a_spec() -> None:
    import yaml

    text = "services: {a: {app: ./x}, b: {app: {source: sha256:1}}, c: {model: builtin://tiny}, d: 3}"
    assert [node.value for node in _named(yaml.compose(text), "app")] == ["./x"]


def test_variables_by_name_come_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "here")
    assert pairs(["A=b=c", "GIVEN"]) == {"A": "b=c", "GIVEN": "here"}
    with pytest.raises(InvalidRequest, match="no NOT_SET"):
        pairs(["NOT_SET"])
