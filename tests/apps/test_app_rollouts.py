"""Rollouts: the old one serves until the new one is well, a failed one never takes traffic, and the way back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from app_town import SMALL, Town
from house import BASTIDE, until

from bastide.domain.errors import Conflict, InvalidSpec

HEALTH = {"path": "/health", "grace": "500ms", "interval": "1s", "failures": 1}


def generation(mark: str) -> dict[str, str]:
    return {"main.py": SMALL.replace("first", mark)}


def test_a_failed_generation_never_takes_traffic(town: Town) -> None:
    assert not town.deploy("roll", generation("one"), health=HEALTH)["failed"]
    for broken, said in (
        ("raise SystemExit('can not')", "can not"),  # ends at once
        (
            SMALL.replace("os.path.exists('/tmp/sick')", "True").replace('os.path.exists("/tmp/sick")', "True"),
            "not well",
        ),
        ("import time; time.sleep(100)", "not well"),  # never listens
    ):
        end = town.deploy("roll", {"main.py": broken}, health=HEALTH)
        assert end["failed"] and said in end["reason"], end
        assert town.json("roll")["mark"] == "one"
    until(lambda: len(town.house.client.service("roll")["instances"]) == 1)


@pytest.mark.parametrize("way", ["rolling", "blue-green"])
def test_nobody_notices_a_rollout(town: Town, way: str) -> None:
    name = f"busy-{way[:4]}"
    assert not town.deploy(name, generation("one"), rollout=way, replicas="0..2")["failed"]

    async def asked_meanwhile() -> list[str]:
        marks: list[str] = []
        rolling = asyncio.create_task(
            asyncio.to_thread(town.deploy, name, generation("two"), rollout=way, replicas="0..2")
        )
        while not rolling.done():
            marks.append((await asyncio.to_thread(town.json, name, "/slow"))["mark"])
        assert not (await rolling)["failed"]
        return marks

    marks = asyncio.run(asked_meanwhile())
    assert set(marks) <= {"one", "two"} and marks == sorted(marks, key=["one", "two"].index)
    assert town.json(name)["mark"] == "two"


def test_immediate_never_runs_two_generations(town: Town) -> None:
    assert not town.deploy("alone", generation("one"), rollout="immediate")["failed"]
    town.json("alone")
    assert not town.deploy("alone", generation("two"), rollout="immediate")["failed"]
    assert town.json("alone")["mark"] == "two"
    assert town.deploy("alone", {"main.py": "raise SystemExit(1)"}, rollout="immediate", health=HEALTH)["failed"]
    until(lambda: town.ask("alone")[0] == 200)
    assert town.json("alone")["mark"] == "two"


def test_the_way_back(town: Town) -> None:
    client = town.house.client
    assert not town.deploy("back", generation("one"))["failed"]
    with pytest.raises(Conflict, match="nothing to go back to"):
        client.rollback("back")
    assert not town.deploy("back", generation("two"))["failed"]
    client.rollback("back")
    list(client.progress(["back"]))
    assert town.json("back")["mark"] == "one"
    client.rollback("back")  # and back again
    list(client.progress(["back"]))
    assert town.json("back")["mark"] == "two"


def test_builds_that_nobody_needs_are_collected_and_the_way_back_is_not(town: Town) -> None:
    client = town.house.client
    for mark in ("one", "two", "three"):
        assert not town.deploy("tidy", generation(mark))["failed"]
    sources = town.house.data / "builds" / "sources"
    before = len(list(sources.iterdir()))
    assert client.collect_builds(0)["removed"] >= 1 and len(list(sources.iterdir())) < before
    client.rollback("tidy")
    list(client.progress(["tidy"]))
    assert town.json("tidy")["mark"] == "two"


def test_the_same_again_changes_nothing(town: Town) -> None:
    assert not town.deploy("same", generation("one"))["failed"]
    before = town.json("same")["pid"], town.house.client.service("same")["generation"]
    assert not town.deploy("same", generation("one"))["failed"]
    assert (town.json("same")["pid"], town.house.client.service("same")["generation"]) == before


def command(town: Town, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BASTIDE, "--data", str(town.house.data), *words], capture_output=True, text=True, check=False
    )


def test_a_deploy_of_what_fails_is_no_success(town: Town, tmp_path: Path) -> None:
    """It was well once, ends whenever it is started since, and the same is deployed again."""
    folder = tmp_path / "fails"
    folder.mkdir()
    (folder / "main.py").write_text("import os\nif os.path.exists('/data/kept'): os._exit(3)\n" + SMALL)
    (folder / "bastide.yaml").write_text(
        json.dumps({"services": {"fails": {"app": ".", "volumes": [{"name": "fails", "path": "/data"}]}}})
    )
    assert command(town, "deploy", str(folder)).returncode == 0
    town.json("fails", "/write")
    with contextlib.suppress(http.client.HTTPException, OSError):
        town.ask("fails", "/exit")
    until(lambda: town.ask("fails")[0] == 503)  # a request that comes before its end is noticed breaks off
    done = command(town, "deploy", str(folder))
    assert done.returncode == 1 and "nothing changed" in done.stdout and "ready in" not in done.stdout, done
    assert "fails failed: it fails when it is started" in done.stderr and "bastide logs fails" in done.stderr, done


SLOW = "import time; time.sleep(600)"
PATIENT = {"grace": "60s"}


@pytest.mark.parametrize(
    ("meanwhile", "said"),
    [
        ("rm", "was removed while it was being deployed"),
        ("rollback", "generation 2 was replaced by generation 3"),
        ("deploy", "generation 2 was replaced by generation 3"),
    ],
)
def test_a_deploy_that_was_overtaken_says_so(town: Town, tmp_path: Path, meanwhile: str, said: str) -> None:
    name = f"overtaken-{meanwhile}"
    assert not town.deploy(name, generation("before"), health=PATIENT)["failed"]
    (tmp_path / "main.py").write_text(SLOW)
    (tmp_path / "bastide.yaml").write_text(json.dumps({"services": {name: {"app": ".", "health": PATIENT}}}))
    with ThreadPoolExecutor() as pool:
        deploying = pool.submit(command, town, "deploy", str(tmp_path))
        until(lambda: 2 in [one["generation"] for one in town.house.client.service(name)["instances"]])
        if meanwhile == "deploy":
            end = town.deploy(name, generation("after"), health=PATIENT)
            assert not end["failed"], end
        else:
            assert command(town, meanwhile, name).returncode == 0
        done = deploying.result()
    assert done.returncode == 1 and "ready in" not in done.stdout, done
    assert said in " ".join(done.stderr.split()), done


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"secrets": ["nobody-set"]}, "secrets set nobody-set"),
        ({"egress": ["everywhere"]}, "neither a name with a dot"),
        ({"volumes": [{"name": "a", "path": "/a"}], "replicas": "0..2"}, "one replica"),
        ({"target": {"rps": 3}}, "one replica at most"),
    ],
)
def test_what_can_t_be_enforced_is_refused(town: Town, spec: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        town.deploy("refused", generation("one"), **spec)


def test_a_directory_by_the_command(town: Town, tmp_path: Path) -> None:
    (tmp_path / "My_App").mkdir()
    (tmp_path / "My_App" / "main.py").write_text(SMALL)

    run = functools.partial(command, town)
    made = run("deploy", str(tmp_path / "My_App"), "--env", "A=b", "--public")
    assert made.returncode == 0 and "/apps/default/my-app/" in made.stdout, made
    assert town.json("my-app", "/env", key=None)["A"] == "b"
    assert run("url", "my-app").stdout.strip().endswith("/apps/default/my-app/")
    assert "/apps/default/my-app/ (public)" in run("ps").stdout
    assert run("exec", "my-app", "--", "sh", "-c", "echo inside; exit 7").returncode == 7
    (tmp_path / "given").write_text("to the app")
    assert run("cp", str(tmp_path / "given"), "my-app:/tmp/").returncode == 0
    assert run("cp", "my-app:/tmp/given", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_text() == "to the app"
    assert run("cp", "my-app:/nowhere", str(tmp_path)).returncode == 3
    assert "serving" in run("logs", "my-app").stdout and "run as it is" in run("build", "my-app").stdout
    assert run("rollback", "my-app").returncode == 1
    assert run("rm", "my-app").returncode == 0
