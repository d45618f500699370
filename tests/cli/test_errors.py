"""What goes wrong is said plainly, with what to do, and with an exit status that means something."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_town import SPEC, Town, run

from bastide.cli.show import status_of
from bastide.domain.errors import error_types


@pytest.mark.parametrize(
    "arguments",
    [("frob",), ("deploy",), ("deploy", "--frob"), ("scale", "chat"), ("keys",), ("why", "chat", "--last", "0"), ()],
)
def test_wrong_usage_is_2_and_no_traceback(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*arguments, data=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Usage:" in done.stdout + done.stderr


def test_a_near_miss_is_named(tmp_path: Path) -> None:
    assert "Did you mean 'deploy'?" in run("deplo", data=tmp_path).stderr


def test_where_nothing_runs_it_says_how_to_start(tmp_path: Path) -> None:
    done = run("ps", data=tmp_path / "none")
    assert done.returncode == 5
    assert "bastide up" in done.stderr
    away = {"BASTIDE_URL": "http://127.0.0.1:9", "BASTIDE_API_KEY": "bst_x"}
    gone = run("ps", data=tmp_path, environment=away)
    assert (gone.returncode, "no Bastide answers at http://127.0.0.1:9" in gone.stderr) == (5, True)


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--listen", "nowhere"), 2, "HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), 2, "HOST:PORT"),
        (("--memory", "3"), 2, "no model fits"),
        (("--memory", "much"), 2, "not a size"),
        (("--tls-certificate", "/nowhere.pem"), 2, "go together"),
        (("--llama-server", "/nowhere"), 2, "no file"),
        (("--data", "/proc/none"), 5, "choose another with --data"),
    ],
)
def test_up_refuses_what_can_not_be(options: tuple[str, ...], status: int, says: str, tmp_path: Path) -> None:
    done = run("up", *options, data=tmp_path / "data")
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr


def test_up_twice_on_one_data_directory_is_refused(town: Town) -> None:
    done = run("up", "--listen", "127.0.0.1:0", data=town.data)
    assert done.returncode == 1
    assert "already runs" in done.stderr and town.url in done.stderr


def test_a_port_that_is_taken_is_said(town: Town, tmp_path: Path) -> None:
    done = run("up", "--listen", town.url.removeprefix("http://"), data=tmp_path / "data")
    assert (done.returncode, "another program listens there" in done.stderr) == (5, True)


def test_every_problem_of_a_spec_is_shown_with_its_line(town: Town, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        "services:\n  chat:\n    modle: builtin://tiny\n    replicas: 3..1\n"
        "  other:\n    model: builtin://huge\n    sleep: soon\n"
    )
    done = town.run("deploy", str(file))
    assert done.returncode == 2
    assert f"{file}:3" in done.stderr and "did you mean `model`" in done.stderr
    assert f"{file}:4" in done.stderr and "1..3" in done.stderr
    assert f"{file}:7" in done.stderr
    assert "nothing was changed" in done.stderr
    assert town.run("deploy", str(file), "--json").returncode == 2


def test_a_model_that_is_not_there_is_refused_before_anything_changes(town: Town, tmp_path: Path) -> None:
    file = tmp_path / "none.yaml"
    file.write_text(SPEC.replace("builtin://tiny", "file:///none/model.gguf"))
    done = town.run("deploy", str(file))
    assert (done.returncode, "there is no file /none/model.gguf" in done.stderr) == (2, True)
    assert town.json("ps", "--json")["services"][0]["model"] == "builtin://tiny"


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("deploy /none.yaml", 2, "no file"),
        ("deploy /proc", 2, "holds no bastide.yaml"),
        ("scale chat 3..1", 2, "1..3"),
        ("scale chat 0", 2, "bastide rm"),
        ("scale none 0..1", 3, "it has chat"),
        ("sleep chat --rung off", 2, "frozen, light or deep"),
        ("sleep none", 3, "it has chat"),
        ("wake none", 3, "it has chat"),
        ("why none", 3, "it has chat"),
        ("logs none", 3, "it has chat"),
        ("rm none", 3, "chat"),
        ("chat none hello", 3, "chat"),
        ("keys revoke key-none", 3, "key-none"),
        ("keys create --per week", 2, "day or month"),
        ("keys create --expires soon", 2, "30"),
        ("keys create --budget much", 2, "money"),
        ("projects create No", 2, "a-z"),
        ("projects rm none", 3, "none"),
        ("models pull https://example.invalid/a.gguf", 2, "--sha256"),
        ("models pull ftp://example.invalid/a.gguf", 2, "ftp"),
        ("models pull file:///none.gguf", 2, "no file"),
        ("models rm none", 3, "models ls"),
        ("models rebuild none", 2, "there is tiny"),
        ("usage --last soon", 2, "not a duration"),
        ("restore /none.tar", 2, "no file"),
        ("doctor --explain none", 2, "zram"),
        ("backup /proc/none", 2, "can't be written"),
    ],
)
def test_errors_say_what_to_do(town: Town, command: str, status: int, says: str) -> None:
    done = town.run(*command.split())
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_key_is_4(town: Town) -> None:
    done = town.run("ps", environment={"BASTIDE_URL": town.url, "BASTIDE_API_KEY": "bst_wrong"})
    assert (done.returncode, "not known" in done.stderr) == (4, True)


def test_every_error_has_a_status() -> None:
    statuses = {code: status_of(kind.__new__(kind)) for code, kind in error_types().items()}
    assert set(statuses.values()) == {1, 2, 3, 4, 5}
    assert 0 not in statuses.values()
