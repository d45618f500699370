"""Every subcommand against one real Bastide: what it prints for programs, and the status it ends with."""

from __future__ import annotations

import json
import os
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from cli_town import SPEC, Town, run

INSTANCE = {
    "id",
    "generation",
    "phase",
    "reason",
    "pid",
    "node",
    "memory_bytes",
    "in_flight",
    "since",
    "last_used",
    "failures",
}
COUNTS = {"requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost", "cost_pico"}


def test_deploy_waits_until_it_is_ready(town: Town, tmp_path: Path) -> None:
    (tmp_path / "bastide.yaml").write_text(SPEC.replace("chat:", "other:"))
    done = run("deploy", str(tmp_path), data=town.data)
    assert done.returncode == 0
    assert "1 service ready in" in done.stdout
    assert f"models at {town.url}/v1" in done.stdout
    again = town.run("deploy", str(tmp_path))
    assert (again.returncode, "nothing changed" in again.stdout) == (0, True)
    answer = town.json("deploy", str(tmp_path), "--json")
    assert set(answer) == {"project", "dry_run", "services", "ends"}
    assert answer["services"] == [{"name": "other", "change": "unchanged", "fields": [], "generation": 1}]
    assert town.run("rm", "other").returncode == 0


def test_a_dry_run_shows_the_difference_and_changes_nothing(town: Town, tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text(SPEC.replace("0..1", "0..2"))
    done = town.run("deploy", str(file), "--dry-run")
    assert done.returncode == 0
    assert "chat would be changed" in done.stdout
    assert "replicas: 0..1 -> 0..2" in done.stdout
    answer = town.json("deploy", str(file), "--dry-run", "--json")
    assert answer["dry_run"] is True
    assert answer["services"][0]["fields"] == [{"field": "replicas", "from": "0..1", "to": "0..2"}]
    assert town.json("ps", "--json")["services"][0]["replicas"] == "0..1"


def test_ps_is_stable_for_programs(town: Town) -> None:
    town.run("wake", "chat")
    answer = town.json("ps", "--json")
    (service,) = [s for s in answer["services"] if s["name"] == "chat"]
    assert {"name", "project", "kind", "phase", "reason", "since", "model", "replicas", "instances"} <= set(service)
    assert service["kind"] == "model"
    (instance,) = service["instances"]
    assert set(instance) >= INSTANCE
    assert set(answer["node"]) == {"name", "here", "memory_budget_bytes", "memory_held_bytes"}


def test_ps_is_a_table_for_people(town: Town) -> None:
    done = run("ps", "--all", data=town.data)
    assert done.stdout.splitlines()[0].split() == ["SERVICE", "PHASE", "FOR", "PID", "MEMORY", "IN", "FLIGHT", "WHY"]
    assert "default/chat" in done.stdout
    assert "held" in done.stdout.splitlines()[-1]
    assert "\x1b" not in done.stdout, "no control codes where nobody looks at a terminal"
    assert all(line == line.rstrip() for line in done.stdout.splitlines()), "nor blanks that fill a line up"


def test_sleep_and_wake_tell_what_they_did(town: Town) -> None:
    town.run("wake", "chat")
    slept = town.json("sleep", "chat", "--json")
    assert slept["instances"][0]["rung"] == "deep"
    assert slept["instances"][0]["gave_back_bytes"] > 2**20
    again = town.run("sleep", "chat")
    assert (again.returncode, "no instance of chat is awake" in again.stderr) == (1, True)
    woken = town.json("wake", "chat", "--json")
    assert woken["woke_from"] == "deep"
    assert woken["wake_s"] > 0
    frozen = town.run("sleep", "chat", "--rung", "frozen")
    assert frozen.stdout.startswith("default.chat.1.0: frozen, gave back")
    assert "awake from frozen in" in town.run("wake", "chat").stdout
    assert "was awake" in town.run("wake", "chat").stdout


def test_chat_streams_and_shows_the_wake(town: Town) -> None:
    town.run("wake", "chat")
    town.run("sleep", "chat")
    done = run("chat", "chat", "What", "is", "the", "capital", "of", "France?", data=town.data)
    assert done.returncode == 0
    assert "Paris" in done.stdout
    assert "awake from deep" in done.stderr
    short = town.run("chat", "chat", "--max-tokens", "1", "--system", "Be short.", "hello")
    assert (short.returncode, len(short.stdout.split()) <= 1) == (0, True)


def test_a_conversation_ends_with_an_empty_line(town: Town) -> None:
    done = town.run("chat", "chat", stdin="What is the capital of Italy?\n\n")
    assert (done.returncode, "Rome" in done.stdout) == (0, True)


def test_why_has_a_reason_for_everything(town: Town) -> None:
    answer = town.json("why", "chat", "--json")
    assert set(answer) == {"name", "phase", "reason", "decisions"}
    assert [d["what"] for d in answer["decisions"]][:2] == ["declare", "fetch weights"]
    assert all(d["reason"] and d["at"].endswith("Z") and d["actor"] for d in answer["decisions"])
    assert "now:" in town.run("why", "chat", "--last", "3").stdout


def test_logs(town: Town) -> None:
    assert "awake" in town.run("logs", "chat").stdout


def test_scale(town: Town) -> None:
    assert town.json("scale", "chat", "0..2", "--json")["replicas"] == "0..2"
    assert "0..1 replicas" in town.run("scale", "chat", "0..1").stdout


def test_usage_adds_up(town: Town) -> None:
    town.run("chat", "chat", "hello")
    answer = town.json("usage", "--json")
    assert set(answer) == {"total", "system", "rows", "instance_time", "engines"}
    assert set(answer["total"]) == COUNTS
    assert answer["total"]["output_tokens"] > 0
    assert answer["total"]["cost"] == answer["total"]["cost_pico"] / 10**12
    assert all(set(row) > COUNTS for row in answer["rows"])
    users = [row for row in answer["rows"] if row["account"] == "user"]
    assert sum(row["output_tokens"] for row in users) == answer["total"]["output_tokens"]
    key = users[0]["key"]
    assert {row["key"] for row in town.json("usage", "--key", key, "--json")["rows"]} == {key}
    assert "engines' own count" in town.run("usage").stdout
    assert town.run("usage", "--last", "24h", "--service", "chat").returncode == 0


def test_keys_are_shown_once(town: Town) -> None:
    made = town.json(
        "keys", "create", "--name", "team", "--model", "chat", "--expires", "30d", "--requests-per-minute", "60",
        "--tokens-per-minute", "9000", "--in-flight", "4", "--budget", "5.00", "--per", "day", "--json",
    )  # fmt: skip
    assert made["key"].startswith("bst_")
    assert made["budget"] == {"amount": 5.0, "window": "day"}
    listed = town.run("keys", "ls")
    assert made["key"] not in listed.stdout + town.run("keys", "ls", "--json").stdout
    for text in ("team", "60 requests/min", "9000 tokens/min", "4 in flight", "5 a day", "use models"):
        assert text in listed.stdout
    alone = town.run("keys", "create")
    assert (len(alone.stdout.split()), "not shown again" in alone.stderr) == (1, True)
    weak = {"BASTIDE_URL": town.url, "BASTIDE_API_KEY": made["key"]}
    assert town.run("chat", "chat", "hello", environment=weak).returncode == 0
    refused = town.run("ps", environment=weak)
    assert (refused.returncode, "--can-deploy" in refused.stderr) == (4, True)
    assert town.json("keys", "revoke", made["id"], "--json")["state"] == "revoked"
    assert town.run("chat", "chat", "hello", environment=weak).returncode == 4


def test_projects(town: Town) -> None:
    assert "is there" in town.run("projects", "create", "other").stdout
    names = [project["name"] for project in town.json("projects", "ls", "--json")["projects"]]
    assert names == ["default", "other"]
    empty = town.run("--project", "other", "ps")
    assert "no services yet" in empty.stdout
    assert town.run("projects", "rm", "other").returncode == 0
    assert town.run("--project", "other", "ps").returncode == 3
    kept = town.run("projects", "rm", "default")
    assert (kept.returncode, "can't be removed" in kept.stderr) == (1, True)


def test_secrets_are_never_shown(town: Town) -> None:
    assert town.run("secrets", "set", "outside-key", stdin="s3cret-value\n").returncode == 0
    listed = town.run("secrets", "ls")
    assert "outside-key" in listed.stdout
    assert "s3cret" not in listed.stdout + town.run("secrets", "ls", "--json").stdout
    assert town.run("secrets", "set", "outside-key", stdin="").returncode == 2
    assert town.run("secrets", "rm", "outside-key").returncode == 0
    assert town.run("secrets", "rm", "outside-key").returncode == 3


def test_models(town: Town) -> None:
    pulled = town.json("models", "pull", "builtin://tiny-q4_0", "--json")
    assert (pulled["done"], len(pulled["sha256"])) == (True, 64)
    (mine,) = [m for m in town.json("models", "ls", "--json")["models"] if m["url"] == "builtin://tiny"]
    assert mine["used_by"] == ["default/chat"]
    assert "builtin://tiny-q4_0" in town.run("models", "ls").stdout
    used = town.run("models", "rm", "builtin://tiny")
    assert (used.returncode, "used by chat" in used.stderr) == (1, True)
    assert "is forgotten" in town.run("models", "rm", "builtin://tiny-q4_0").stdout
    assert town.run("models", "rm", "builtin://tiny-q4_0").returncode == 3


def test_nothing_to_confirm(town: Town) -> None:
    assert town.run("confirm").stdout == "nothing was refused\n"


def test_a_backup_can_be_restored_elsewhere(town: Town, tmp_path: Path) -> None:
    file, data = tmp_path / "backup.tar", tmp_path / "restored"
    assert town.run("backup", str(file)).returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert town.run("restore", str(file), "--data", str(data)).returncode == 0
    assert (data / "admin.key").read_text() == (town.data / "admin.key").read_text()
    again = town.run("restore", str(file), "--data", str(data))
    assert (again.returncode, "empty directory" in again.stderr) == (1, True)
    file.write_bytes(file.read_bytes()[:2000])
    broken = town.run("restore", str(file), "--data", str(tmp_path / "new"))
    assert (broken.returncode, "no Bastide backup" in broken.stderr) == (2, True)


def test_doctor(town: Town) -> None:
    findings = town.json("doctor", "--json", status=None)["findings"]
    assert {f["topic"] for f in findings} >= {
        "machine",
        "memory",
        "limits",
        "sleep",
        "isolation",
        "accelerators",
        "engines",
    }
    assert all(f["state"] in ("ok", "lacks", "bad") for f in findings)
    assert all(f["mend"] for f in findings if f["topic"] == "sleep" and f["state"] != "ok")
    assert "zram" in town.run("doctor", "--explain", "zram").stdout


def test_a_service_that_is_removed_is_gone(town: Town, tmp_path: Path) -> None:
    file = tmp_path / "gone.yaml"
    file.write_text(SPEC.replace("chat:", "gone:"))
    town.run("deploy", str(file), "--no-wait")
    assert "is being removed" in town.run("rm", "gone").stdout


@pytest.mark.parametrize("name", ["admin.key", "secrets.key", "bastide.db", "running.json", "launch.json"])
def test_what_is_kept_is_for_its_owner_alone(town: Town, name: str) -> None:
    assert stat.S_IMODE((town.data / name).stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(os.stat(town.data).st_mode) == 0o700


def test_the_last_thing_json_gives_is_one_document(town: Town) -> None:
    shapes: dict[str, Any] = {
        name: json.loads(town.run(*name.split(), "--json").stdout)
        for name in ("ps", "usage", "why chat", "keys ls", "projects ls", "secrets ls", "models ls")
    }
    assert all(isinstance(shape, dict) for shape in shapes.values())


def test_words_in_brackets_are_words(town: Town, tmp_path: Path) -> None:
    """What a program said is shown as it said it, and never taken for markup: `ps` failed for everybody else's services too."""
    app = tmp_path / "odd"
    app.mkdir()
    (app / "main.py").write_text("raise SystemExit('bad [bold]thing[/bold] [/nope] happened')\n")
    try:
        deployed = town.run("deploy", str(app))
        assert (deployed.returncode, "[/nope] happened" in deployed.stdout + deployed.stderr) == (1, True)
        for words in (("ps",), ("why", "odd")):
            shown = town.run(*words)
            assert (shown.returncode, "[/nope]" in shown.stdout) == (0, True), shown.stderr
    finally:
        town.run("rm", "odd")


def test_a_body_that_is_not_said_to_be_json_is_told_how(town: Town) -> None:
    key = (town.data / "admin.key").read_text().strip()
    for path in ("/api/v1/sandboxes", "/api/v1/services/chat/scale"):
        asked = urllib.request.Request(
            town.url + path, data=b'{"replicas": "0..1"}', headers={"authorization": f"Bearer {key}"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked)
        assert "content-type: application/json" in refused.value.read().decode()
