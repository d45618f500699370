"""Sources are kept whole or not at all, detection says what it found, and the same input is built once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from wheelhouse import small_wheel, tar_of

from bastide.adapters.isolation.folders import interpreter
from bastide.builds.builder import Builder
from bastide.builds.detect import detect
from bastide.domain.apps import AppSpec, Build
from bastide.domain.errors import BastideError, InvalidRequest, NotFound
from bastide.domain.sources import Entry, digest_of

FASTAPI = "from fastapi import FastAPI\nserver = FastAPI()\n"


def sum_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def taken(builder: Builder, files: dict[str, str]) -> str:
    """Upload a directory; returns its digest."""
    digest = digest_of([Entry(name, "file", sum_of(text)) for name, text in files.items()])
    builder.take_source(digest, tar_of(dict(files)))
    return digest


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    small_wheel(tmp_path / "wheels", "quokka", code="answer = 42")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    return Builder(tmp_path / "builds", interpreter())


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_source_is_kept_by_its_content(builder: Builder, tmp_path: Path) -> None:
    files = {"main.py": "x = 1", "lib/run.sh": "echo"}
    digest = digest_of(
        [
            Entry("main.py", "file", sum_of("x = 1")),
            Entry("lib/run.sh", "program", sum_of("echo")),
            Entry("l", "link", "main.py"),
        ]
    )
    assert not builder.has_source(digest)
    builder.take_source(digest, tar_of(dict(files), {"l": "main.py"}, programs=("lib/run.sh",)))
    kept = tmp_path / "builds/sources" / digest.partition(":")[2]
    assert builder.has_source(digest) and (kept / "lib/run.sh").stat().st_mode & 0o777 == 0o755
    assert os.readlink(kept / "l") == "main.py" and (kept / "main.py").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("files", "links", "said"),
    [
        ({"../out": "x"}, {}, "no relative path"),
        ({"/etc/cron.d/x": "x"}, {}, "no relative path"),
        ({"a": "x"}, {}, "changed while it was packed"),
    ],
)
def test_what_is_no_honest_upload_leaves_nothing(
    builder: Builder, tmp_path: Path, files: dict[str, bytes | str], links: dict[str, str], said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        builder.take_source("sha256:" + "0" * 64, tar_of(files, links))
    assert list((tmp_path / "builds/sources").iterdir()) == []


def test_nothing_is_written_through_a_link(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    made = tar_of({}, {"d": str(tmp_path / "outside")})
    import io
    import tarfile

    both = io.BytesIO()
    with tarfile.open(fileobj=both, mode="w") as tar:
        link = tarfile.TarInfo("d")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("d/planted"), io.BytesIO(b""))
    both.seek(0)
    assert made
    with pytest.raises(InvalidRequest, match="no directory"):
        builder.take_source("sha256:" + "0" * 64, both)
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_broken_upload_is_no_source(builder: Builder) -> None:
    import io

    whole = tar_of({"a": "x" * 100_000}).getvalue()
    with pytest.raises(InvalidRequest):
        builder.take_source("sha256:" + "0" * 64, io.BytesIO(whole[:50_000]))


# --- detection -------------------------------------------------------------------------------------------------------


def laid(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


@pytest.mark.parametrize(
    ("files", "kind", "said", "runs"),
    [
        ({"requirements.txt": "fastapi\nuvicorn", "main.py": FASTAPI}, "python", "server = FastAPI", "uvicorn main:server"),
        ({"requirements.txt": "fastapi", "api.py": FASTAPI}, "python", "uvicorn was added", "uvicorn api:server"),
        ({"pyproject.toml": '[project]\ndependencies = ["flask"]', "app/main.py": "import flask\napp = flask.Flask('x')"}, "python", "pyproject.toml", "waitress"),
        ({"main.py": "print(1)"}, "python", "run as it is", "main.py"),
        ({"package.json": '{"scripts": {"start": "node x.js"}}'}, "node", "start script", "node x.js"),
        ({"package.json": "{}", "server.js": ""}, "node", "node runs server.js", "server.js"),
    ],
)  # fmt: skip
def test_what_a_directory_is(tmp_path: Path, files: dict[str, str], kind: str, said: str, runs: str) -> None:
    found = detect(laid(tmp_path, files), ())
    assert found.kind == kind and said in found.reason and runs in " ".join(found.argv)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"x.txt": ""}, "command"),
        ({"requirements.txt": "flask", "lib.py": "x = 1"}, "can't be found out what to run"),
        ({"requirements.txt": "-e ."}, "is not taken"),
        ({"requirements.txt": "-r ../../secrets"}, "not in the directory"),
        ({"requirements.txt": "a @ file:///etc/passwd"}, "is not taken"),
        ({"requirements.txt": "./local.whl"}, "is not taken"),
        ({"requirements.txt": "a --index-url=http ; b"}, "is not taken"),
        ({"requirements.txt": "--find-links=/etc"}, "is not taken"),
        ({"pyproject.toml": '[project]\ndynamic = ["dependencies"]'}, "dynamic"),
        ({"main.py": "def ("}, "not Python"),
        ({"package.json": '{"dependencies": {"a": "file:../../etc"}}'}, "is not taken"),
        ({"package.json": "[]"}, "can't be read"),
        ({"package.json": "{}"}, "start"),
    ],
)
def test_what_can_t_be_found_out_is_said(tmp_path: Path, files: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        detect(laid(tmp_path, files), ())


def test_a_link_is_no_requirements_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("token")
    folder = laid(tmp_path / "app", {"main.py": "x = 1"})
    (folder / "requirements.txt").symlink_to(tmp_path / "secret")
    assert detect(folder, ()).requirements is None


# --- builds ----------------------------------------------------------------------------------------------------------


def test_a_python_app_is_built_once_and_runs(builder: Builder, tmp_path: Path) -> None:
    app = AppSpec(
        source=taken(builder, {"requirements.txt": "quokka==1.0", "main.py": "import quokka; print(quokka.answer)"})
    )
    said: list[str] = []
    assert builder.resolve(app) is None
    build = builder.build(app, said.append)
    assert build.kind == "python" and build.mounts[0][1] == "/venv" and any("installing 1" in line for line in said)
    assert builder.build(app, said.append) == build == Builder(tmp_path / "builds", interpreter()).resolve(app)
    venv = build.mounts[0][0]
    ran = subprocess.run([f"{venv}/bin/python", f"{build.source}/main.py"], capture_output=True, text=True, check=True)
    assert ran.stdout == "42\n" and "run as it is" in builder.log(app)
    assert os.stat(f"{venv}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages/quokka.py").st_nlink > 1


def test_another_source_with_the_same_requirements_shares_them(builder: Builder) -> None:
    one = builder.build(AppSpec(source=taken(builder, {"requirements.txt": "quokka", "main.py": "1"})), lambda _: None)
    said: list[str] = []
    two = builder.build(AppSpec(source=taken(builder, {"requirements.txt": "quokka", "main.py": "2"})), said.append)
    assert one.mounts == two.mounts and one.key != two.key and any("already" in line for line in said)


def test_builds_at_once_are_one(builder: Builder) -> None:
    app = AppSpec(source=taken(builder, {"requirements.txt": "quokka", "main.py": "1"}))
    installs: list[str] = []
    made: list[Build] = []
    threads = [threading.Thread(target=lambda: made.append(builder.build(app, installs.append))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1 and len([line for line in installs if line.startswith("installing")]) == 1


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"requirements.txt": "no-such-package", "main.py": ""}, "dependencies|dependency"),
        ({"x": ""}, "command"),
    ],
)
def test_what_can_t_be_built_leaves_nothing_but_its_log(
    builder: Builder, tmp_path: Path, files: dict[str, str], said: str
) -> None:
    app = AppSpec(source=taken(builder, files))
    with pytest.raises(BastideError, match=said):
        builder.build(app, lambda _: None)
    assert builder.resolve(app) is None and "failed" in builder.log(app)
    assert list((tmp_path / "builds/venvs").iterdir()) == []


def test_a_source_that_is_not_here(builder: Builder) -> None:
    with pytest.raises(NotFound):
        builder.build(AppSpec(source="sha256:" + "1" * 64), lambda _: None)


def test_what_a_kill_left_is_cleared_and_what_is_unused_collected(builder: Builder, tmp_path: Path) -> None:
    used = AppSpec(source=taken(builder, {"requirements.txt": "quokka", "main.py": "1"}))
    unused = AppSpec(source=taken(builder, {"main.py": "2"}))
    kept, gone = builder.build(used, lambda _: None), builder.build(unused, lambda _: None)
    (tmp_path / "builds/venvs/x.part-1").mkdir()
    again = Builder(tmp_path / "builds", interpreter())
    assert not (tmp_path / "builds/venvs/x.part-1").exists()
    assert again.collect([used], 3600.0).removed == 0
    assert again.collect([used], -1.0).removed == 1
    assert again.resolve(used) == kept and again.resolve(unused) is None and not os.path.exists(gone.source)
    assert again.collect([], -1.0).removed == 2 and not os.path.exists(kept.source)
