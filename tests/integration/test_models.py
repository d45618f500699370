"""The main job, with the official client on real engines: answers, streams, sleep, wake, room, metering, limits."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from house import CHAT, House, until

from bastide.domain.errors import Conflict, InvalidSpec

CAPITAL = "What is the capital of France?"
THREE = """
services:
  one: {model: "builtin://tiny", context: 1024, sleep: off, resources: {memory: 60MiB}}
  two: {model: "builtin://tiny-f16", context: 1024, sleep: off, resources: {memory: 60MiB}}
  three: {model: "builtin://tiny-q4_0", context: 1024, sleep: off, resources: {memory: 60MiB}}
"""


def test_an_answer_and_its_usage(shared: House) -> None:
    answer = shared.openai().chat.completions.create(
        model="chat", messages=[{"role": "user", "content": CAPITAL}], temperature=0
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None and answer.usage.prompt_tokens > 5 and answer.usage.completion_tokens > 2
    assert answer.model == "chat"


def test_a_stream_and_its_usage(shared: House) -> None:
    stream = shared.openai().chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": CAPITAL}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    for event in stream:
        usage = event.usage or usage
        text += event.choices[0].delta.content or "" if event.choices else ""
    assert "Paris" in text and usage is not None and usage.completion_tokens > 2


def test_a_schema_is_kept_to(shared: House) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    answer = shared.openai().chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": CAPITAL}],
        max_tokens=200,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}},
    )
    content = answer.choices[0].message.content or ""
    assert answer.choices[0].finish_reason == "length" or "city" in json.loads(content)
    assert content.lstrip().startswith("{")


def test_completions_responses_and_models(shared: House) -> None:
    client = shared.openai()
    assert [model.id for model in client.models.list()] == ["chat"]
    assert client.models.retrieve("chat").id == "chat"
    assert client.completions.create(model="chat", prompt="The capital", max_tokens=3).choices[0].text
    assert client.responses.create(model="chat", input=CAPITAL).output_text


def test_embeddings(make_house: Callable[..., House]) -> None:
    house = make_house().start()
    house.deploy("services: {vectors: {model: 'builtin://tiny', context: 512, embeddings: true}}")
    answer = house.openai().embeddings.create(model="vectors", input=["one", "two"])
    assert len(answer.data) == 2 and len(answer.data[0].embedding) > 100
    assert house.client.sleep("vectors")["instances"][0]["rung"] == "deep"
    again = house.openai().embeddings.create(model="vectors", input=["one", "two"])
    assert again.usage.prompt_tokens == answer.usage.prompt_tokens


def test_errors_are_the_clients_own(shared: House) -> None:
    with pytest.raises(openai.AuthenticationError):
        shared.openai("bst_wrong").models.list()
    with pytest.raises(openai.NotFoundError, match="chat"):
        shared.ask("hello", model="chatt")
    with pytest.raises(openai.BadRequestError):
        shared.ask("hello", max_tokens=-5)
    with pytest.raises(openai.BadRequestError, match="context"):
        shared.ask("word " * 3000)


def test_progress_of_more_services_than_an_address_has_room_for(shared: House) -> None:
    lines = list(shared.client.progress([f"gone-meanwhile-{number}@1" for number in range(3000)]))
    assert len(lines) == 3000 and all(line["done"] and line["failed"] for line in lines)


@pytest.mark.parametrize("rung", ["frozen", "deep"])
def test_sleep_gives_back_and_a_request_wakes(shared: House, rung: str) -> None:
    shared.ask(CAPITAL)
    pid = shared.instance()["pid"]
    (slept,) = shared.client.sleep("chat", rung)["instances"]
    assert slept["rung"] == rung
    if rung == "deep":
        assert slept["gave_back_bytes"] > 10 * 2**20
        assert not Path(f"/proc/{pid}").exists()
    raw = shared.openai().chat.completions.with_raw_response.create(
        model="chat", messages=[{"role": "user", "content": CAPITAL}], temperature=0
    )
    assert raw.headers["x-bastide-wake"] == rung
    assert raw.headers["x-bastide-instance"] == "default.chat.1.0"
    assert "first_token;dur=" in raw.headers["server-timing"]
    assert "Paris" in (raw.parse().choices[0].message.content or "")


def test_many_that_wait_wake_it_once(shared: House) -> None:
    shared.client.sleep("chat", "deep")
    log = shared.data / "logs" / "default.chat.1.0.log"
    before = log.read_text().count("bastide: awake:")
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(shared.ask(CAPITAL))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12 and all("Paris" in answer for answer in answers)
    assert log.read_text().count("bastide: awake:") == before + 1


def test_users_and_system_are_what_the_engines_counted(make_house: Callable[..., House]) -> None:
    house = make_house().start()
    house.deploy(CHAT)
    client = house.openai()
    for _ in range(3):
        house.ask(CAPITAL)
    client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Tell me a story"}], n=2)
    # Hang up in the middle of a stream.
    stream = client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "Tell me a story"}],
        stream=True,
        max_tokens=800,
        extra_body={"ignore_eos": True},
    )
    for _, _event in zip(range(5), stream, strict=False):
        pass
    stream.close()
    until(lambda: house.client.usage()["total"]["requests"] == 5)
    until(lambda: house.instance()["in_flight"] == 0)
    house.client.sleep("chat", "deep")  # now everything is settled, and the engine's last count is read
    usage = house.client.usage()
    for field in ("input_tokens", "cached_input_tokens", "output_tokens"):
        assert usage["total"][field] + usage["system"][field] == usage["engines"][field], (field, usage)
    hung_up = [row for row in usage["rows"] if row["account"] == "user"]
    assert hung_up[0]["output_tokens"] > 20
    total = usage["total"]
    fresh = total["input_tokens"] - total["cached_input_tokens"]
    expected = fresh * 100_000 + total["cached_input_tokens"] * 10_000 + total["output_tokens"] * 300_000
    assert total["cost_pico"] == expected


def test_a_third_model_makes_one_give_way(make_house: Callable[..., House]) -> None:
    house = make_house("--memory", "130MiB").start()
    ends = house.deploy(THREE)
    assert all(end["phase"] in ("ready", "asleep") for end in ends.values()), ends
    for name in ("one", "two", "three", "one", "three", "two"):
        assert "Paris" in house.ask(CAPITAL, model=name)
        awake = [s["name"] for s in house.client.services()["services"] if s["instances"][0]["phase"] == "awake"]
        assert len(awake) <= 2
    reasons = [d for n in ("one", "two", "three") for d in house.client.why(n)["decisions"] if d["what"] == "give way"]
    assert reasons and "gives way: idle for" in reasons[0]["reason"]


def test_two_that_alternate_on_one_place_are_both_served(make_house: Callable[..., House]) -> None:
    house = make_house("--memory", "70MiB").start()
    house.deploy(THREE.replace("  three:", "  #three:"))
    wrong: list[str] = []

    def client(name: str) -> None:
        wrong.extend(name for _ in range(8) if "Paris" not in house.ask(CAPITAL, model=name))

    threads = [threading.Thread(target=client, args=(name,)) for name in ("one", "two") for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_larger_than_the_device_is_refused_before_anything_stops(
    make_house: Callable[..., House], tmp_path: Path
) -> None:
    house = make_house("--memory", "60MiB").start()
    house.deploy(CHAT)
    with pytest.raises(InvalidSpec, match="--memory"):
        house.client.deploy(CHAT.replace("builtin://tiny", "file://" + _padded(tmp_path, 80 * 2**20)))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    for url, part in ((f"file://{broken}", "GGUF"), ("file:///nowhere.gguf", "no file"), ("builtin://huge", "tiny")):
        with pytest.raises(InvalidSpec, match=part):
            house.client.deploy(CHAT.replace("builtin://tiny", url), dry_run=url.startswith("builtin"))
    assert "Paris" in house.ask(CAPITAL) and house.client.service("chat")["generation"] == 1


def _padded(directory: Path, size: int) -> str:
    from bastide.builtin import tiny

    path = directory / "large.gguf"
    path.write_bytes(tiny.weights_path().read_bytes())
    os.truncate(path, size)
    return str(path)


def test_a_generation_that_exits_at_once_never_takes_traffic(make_house: Callable[..., House], tmp_path: Path) -> None:
    house = make_house().start()
    house.deploy(CHAT)
    # A whole GGUF file of an architecture that no engine knows.
    from bastide.builtin import tiny

    odd = tmp_path / "odd.gguf"
    odd.write_bytes(tiny.weights_path().read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lemon", 1))
    ends = house.deploy(CHAT.replace("builtin://tiny", f"file://{odd}"))
    assert ends["chat"]["failed"] and "lemon" in ends["chat"]["reason"], ends
    assert "Paris" in house.ask(CAPITAL)
    assert house.client.service("chat")["serving_generation"] == 1


def test_a_budget_can_not_be_overrun_by_two_workers(make_house: Callable[..., House]) -> None:
    house = make_house("--memory", "1GiB", "--gateway-workers", "2").start()
    house.deploy(CHAT)
    budget = 0.0004
    key = house.client.create_key(name="small", budget=budget, budget_window="day")["key"]
    refused: list[str] = []

    def client() -> None:
        for _ in range(25):
            try:
                house.openai(key).chat.completions.create(
                    model="chat", messages=[{"role": "user", "content": CAPITAL}], max_tokens=10
                )
            except openai.RateLimitError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused and "budget" in refused[0]
    rows = [row for row in house.client.usage()["rows"] if row["account"] == "user"]
    spent = sum(row["cost"] for row in rows)
    assert 0 < spent <= budget
    house.kill(house.pid("gateway"))  # and not by the worker that follows one that was killed, either
    until(lambda: _refused(house, key))
    assert sum(row["cost"] for row in house.client.usage()["rows"] if row["account"] == "user") <= budget


def _refused(house: House, key: str) -> bool:
    try:
        house.openai(key).chat.completions.create(
            model="chat", messages=[{"role": "user", "content": CAPITAL}], max_tokens=10
        )
    except openai.RateLimitError:
        return True
    except openai.APIError:
        return False
    return False


def test_limits_of_a_key(shared: House) -> None:
    client = shared.client
    limited = client.create_key(name="slow", requests_per_minute=2, models=["chat"])
    mine = shared.openai(limited["key"])
    for _ in range(2):
        mine.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}], max_tokens=1)
    with pytest.raises(openai.RateLimitError):
        mine.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}], max_tokens=1)
    client.revoke_key(limited["id"])
    until(lambda: _unknown(mine))
    other = client.create_key(name="other", models=["nothing"])
    with pytest.raises(openai.NotFoundError, match="does not exist for this key"):
        shared.openai(other["key"]).chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}])


def _unknown(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return True
    return False


def test_scale_up_under_load_and_back(make_house: Callable[..., House]) -> None:
    house = make_house().start()
    house.deploy(CHAT.replace("0..1", "1..3\n    target: {in_flight: 1}"))
    with pytest.raises(Conflict, match="stay awake"):
        house.client.sleep("chat", "deep")
    threads = [
        threading.Thread(
            target=house.ask, args=("Tell me a story",), kwargs={"max_tokens": 300, "extra_body": {"ignore_eos": True}}
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    until(lambda: sum(i["phase"] == "awake" for i in house.client.service("chat")["instances"]) >= 2)
    for thread in threads:
        thread.join()
    assert house.client.scale("chat", "0..1")["replicas"] == "0..1"
    until(lambda: len(house.client.service("chat")["instances"]) == 1)


def test_an_operators_own_server(make_house: Callable[..., House], tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    source = Path(__file__).with_name("llama_server.py").read_text()
    program.write_text(f"#!{sys.executable}\n{source}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    house = make_house("--memory", "1GiB", "--llama-server", str(program)).start()
    ends = house.deploy(CHAT)
    assert ends["chat"]["phase"] == "ready", ends
    assert "Paris" in house.ask(CAPITAL)
    engine = house.instance()["pid"]
    assert b"llama-server" in Path(f"/proc/{engine}/cmdline").read_bytes()
    assert b"LLAMA_API_KEY" not in Path(f"/proc/{engine}/cmdline").read_bytes()
    for rung in ("frozen", "deep"):
        house.client.sleep("chat", rung)
        assert "Paris" in house.ask(CAPITAL)


def test_a_backup_is_restored_elsewhere(shared: House, make_house: Callable[..., House], tmp_path: Path) -> None:
    from bastide.control.backup import restore_backup

    shared.client.set_secret("token", "a value that must not be seen")
    with open(tmp_path / "backup.tar", "wb") as file:
        shared.client.backup(file)
    assert b"a value that must not be seen" not in (tmp_path / "backup.tar").read_bytes()
    restore_backup(str(tmp_path / "backup.tar"), str(tmp_path / "there"))
    house = make_house("--memory", "1GiB", data=tmp_path / "there").start()
    until(lambda: house.client.service("chat")["phase"] in ("ready", "asleep"))
    assert "Paris" in house.ask(CAPITAL)
    assert house.client.secrets()["secrets"][0]["name"] == "token"
    assert house.client.usage()["total"]["requests"] > 0
    with pytest.raises(Conflict):
        restore_backup(str(tmp_path / "backup.tar"), str(tmp_path / "there"))


def test_everything_is_private(shared: House) -> None:
    # Boxes run as users of their own and are shown the door itself; the way to it on the host is private.
    shown = shared.data / "sockets" / "door"
    assert shown.parent.stat().st_mode & 0o077 == 0
    for path in shared.data.rglob("*"):
        mode = path.lstat().st_mode
        assert not mode & 0o077 or stat.S_ISSOCK(mode) or path == shown, f"{path} is {oct(mode)}"
    assert shared.data.stat().st_mode & 0o077 == 0
    secret = "a prompt nobody may read in a log"
    shared.ask(secret)
    for log in (shared.data / "logs").iterdir():
        assert secret.encode() not in log.read_bytes(), log
    assert shared.key.encode() not in (shared.data / "bastide.db").read_bytes()


def test_an_outside_endpoint(make_house: Callable[..., House], shared: House) -> None:
    """Bastide in front of another OpenAI-compatible server: here, another Bastide."""
    house = make_house().start()
    house.client.set_secret("other", shared.key)
    ends = house.deploy(
        f"services: {{far: {{endpoint: {{url: '{shared.url}/v1', model: chat, key: {{secret: other}}}}, "
        "price: {output_per_mtok: 1}}}"
    )
    assert ends["far"]["phase"] == "ready"
    assert "Paris" in house.ask(CAPITAL, model="far")
    total = house.client.usage()["total"]
    assert total["output_tokens"] > 2 and total["cost_pico"] == total["output_tokens"] * 10**6
    with pytest.raises(InvalidSpec, match="no secret"):
        house.client.deploy("services: {b: {endpoint: {url: 'http://127.0.0.1:1/v1', model: m, key: {secret: no}}}}")


def test_a_client_that_leaves_while_held_leaves_the_queue(make_house: Callable[..., House]) -> None:
    house = make_house().start()
    house.deploy(CHAT)
    house.client.sleep("chat", "deep")
    agent = house.pid("agent")
    os.kill(agent, 19)  # nothing can wake now
    try:
        host, _, port = house.listen.rpartition(":")
        body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "hi"}]})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.key}\r\n"
        with socket.create_connection((host, int(port))) as line:
            line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            until(lambda: 'bastide_requests_held{project="default",service="chat"} 1.0' in _metrics(house))
        until(lambda: 'bastide_requests_held{project="default",service="chat"} 0.0' in _metrics(house))
    finally:
        os.kill(agent, 18)
    assert "Paris" in house.ask(CAPITAL)


def _metrics(house: House) -> str:
    return "\n".join(house.client.transport.text("GET", "/metrics"))
