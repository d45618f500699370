"""kill -9 of every process, with real engines: what serves goes on, what was there is adopted, nothing is orphaned."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import openai
import pytest
from house import BASTIDE, CHAT, House, alive, until

from bastide.domain.errors import BastideError

CAPITAL = "What is the capital of France?"


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    made = make_house().start()
    assert made.deploy(CHAT)["chat"]["phase"] == "ready"
    return made


def test_control_is_killed(house: House) -> None:
    engine = house.instance()["pid"]
    control = house.pid("control")
    house.kill(control)
    # While it is away the gateway serves, without control.
    assert "Paris" in house.ask(CAPITAL)
    until(lambda: house.pid("control") != control)
    until(lambda: _answers(house))
    assert house.instance()["pid"] == engine, "the restarted control found the same engine"
    assert "Paris" in house.ask(CAPITAL)
    # Desired state is whole, and changes go on.
    assert house.client.scale("chat", "0..2")["generation"] == 2


def test_a_wake_needs_no_control(house: House) -> None:
    assert house.client.sleep("chat")["instances"][0]["rung"] == "deep"
    os.kill(house.pid("control"), 19)  # it hangs: stopped, so not even restarted
    try:
        raw = house.openai().chat.completions.with_raw_response.create(
            model="chat", messages=[{"role": "user", "content": CAPITAL}]
        )
        assert raw.headers["x-bastide-wake"] == "deep"
        assert "Paris" in (raw.parse().choices[0].message.content or "")
    finally:
        os.kill(house.pid("control"), 18)


def test_the_agent_is_killed(house: House) -> None:
    engine, agent = house.instance()["pid"], house.pid("agent")
    house.kill(agent)
    assert alive(engine), "engines outlive the agent"
    assert "Paris" in house.ask(CAPITAL), "the gateway's lease still holds"
    until(lambda: house.pid("agent") != agent)
    until(lambda: house.client.services()["node"]["here"])
    until(lambda: house.instance()["phase"] == "awake")
    assert house.instance()["pid"] == engine
    assert house.instance()["reason"].startswith("adopted")
    assert house.client.sleep("chat")["instances"][0]["rung"] == "deep", "the adopted one obeys"
    until(lambda: not alive(engine))
    assert "Paris" in house.ask(CAPITAL)


def test_a_frozen_engine_is_adopted_too(house: House) -> None:
    engine, agent = house.instance()["pid"], house.pid("agent")
    house.client.sleep("chat", "frozen")
    house.kill(agent)
    until(lambda: house.pid("agent") != agent)
    assert "Paris" in house.ask(CAPITAL)
    until(lambda: house.client.services()["node"]["here"])
    assert house.instance()["pid"] == engine


def test_a_gateway_worker_is_killed(house: House) -> None:
    worker = house.pid("gateway")
    house.kill(worker)
    # The supervisor holds the listening socket: the next connect waits a moment and is served.
    assert "Paris" in house.ask(CAPITAL)
    assert house.pid("gateway") != worker


def test_an_engine_is_killed_between_requests(house: House) -> None:
    assert "Paris" in house.ask(CAPITAL)
    engine = house.instance()["pid"]
    house.kill(engine)
    assert "Paris" in house.ask(CAPITAL)
    until(lambda: house.instance()["pid"] not in (engine, None))
    reasons = [decision["reason"] for decision in house.client.why("chat")["decisions"]]
    assert any("ended by SIGKILL" in reason for reason in reasons)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_an_engine_is_killed_and_nobody_has_heard_of_it_yet(house: House) -> None:
    """Its keeper may be busy: whoever asks meanwhile waits for another, and is not sent to the dead one again and again."""
    assert "Paris" in house.ask(CAPITAL)
    engine, keeper = house.instance()["pid"], parent(house.instance()["pid"])
    os.kill(keeper, signal.SIGSTOP)
    try:
        os.kill(engine, signal.SIGKILL)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(house.ask, CAPITAL)
            assert not wait([asked], timeout=0.5).done  # as long as the keeper is silent
            os.kill(keeper, signal.SIGCONT)
            assert "Paris" in asked.result(timeout=60)
    finally:
        os.kill(keeper, signal.SIGCONT)


def test_an_engine_is_killed_under_a_stream(house: House) -> None:
    stream = house.openai().chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "Tell me a story"}],
        stream=True,
        max_tokens=900,
        extra_body={"ignore_eos": True},
    )
    events = iter(stream)
    next(events)
    next(events)
    os.kill(house.instance()["pid"], 9)
    with pytest.raises(openai.APIError):
        for _ in events:
            pass
    assert "Paris" in house.ask(CAPITAL)


def test_the_keeper_is_killed(house: House) -> None:
    engine = house.instance()["pid"]
    keeper = int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1])
    house.kill(keeper)
    until(lambda: not alive(engine))  # the kernel ends engines with their keeper: no orphans
    assert "Paris" in house.ask(CAPITAL), "a new keeper, a new engine"


def test_the_supervisor_is_killed_and_another_takes_its_place(house: House) -> None:
    engine = house.instance()["pid"]
    assert house.process is not None
    house.kill(house.process.pid)
    assert "Paris" in house.ask(CAPITAL), "the rest serves on"
    house.start()
    assert house.instance()["pid"] == engine, "the new one adopted the engine"
    assert "Paris" in house.ask(CAPITAL)


def test_nobody_claims_the_engines(make_house: Callable[..., House]) -> None:
    house = make_house("--memory", "1GiB", "--lease", "1.5").start()
    house.deploy(CHAT)
    engine = house.instance()["pid"]
    keeper = int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1])
    others = [house.pid(role) for role in ("control", "gateway", "agent")]
    assert house.process is not None
    house.kill(house.process.pid)
    for pid in others:
        house.kill(pid)
    assert alive(engine)
    until(lambda: not alive(engine) and not alive(keeper))


def test_a_second_up_is_refused(house: House) -> None:
    again = subprocess.run(
        [BASTIDE, "up", "--data", str(house.data), "--listen", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert again.returncode != 0 and "already runs" in again.stderr and house.url in again.stderr
    assert "Paris" in house.ask(CAPITAL)


def test_a_taken_port_is_refused(house: House, tmp_path: Path) -> None:
    other = subprocess.run(
        [BASTIDE, "up", "--data", str(tmp_path / "other"), "--listen", house.listen],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert other.returncode == 5 and "another program listens there" in other.stderr and "--listen" in other.stderr


def test_it_ends_quickly_and_leaves_nothing(make_house: Callable[..., House]) -> None:
    house = make_house().start()
    house.deploy(CHAT)
    house.client.sleep("chat", "frozen")
    engine = house.instance()["pid"]
    pids = [engine, *(house.pid(role) for role in ("control", "gateway", "agent"))]
    assert house.end() == 0
    assert not any(alive(pid) for pid in pids)
    assert not (house.data / "running.json").exists()
    house.start()
    assert "Paris" in house.ask(CAPITAL), "what was declared is there again"


def test_a_disk_that_takes_nothing_does_not_end_those_who_serve(house: House) -> None:
    worker, blocker = house.pid("gateway"), house.data / "running.new"
    blocker.mkdir()  # so that what runs can't be written down
    house.kill(worker)
    assert "Paris" in house.ask(CAPITAL), "another worker was started all the same"
    blocker.rmdir()
    until(lambda: house.pid("gateway") != worker)  # and it is written as soon as it can be


def test_told_to_end_while_it_has_no_agent_it_leaves_nothing(house: House) -> None:
    engine = house.instance()["pid"]
    keeper = int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1])
    house.kill(house.pid("agent"))
    assert house.end() == 0
    assert not alive(engine) and not alive(keeper)


def test_many_requests_while_everything_dies(house: House) -> None:
    """Nobody loses an answer that was promised: each request is answered, or told an error of ours."""
    wrong: list[str] = []
    done = threading.Event()

    def client() -> None:
        while not done.is_set():
            try:
                if "Paris" not in house.ask(CAPITAL, max_tokens=12):
                    wrong.append("another answer")
            except openai.APIStatusError as error:
                if error.status_code not in (429, 502, 503):
                    wrong.append(f"{error.status_code} {error}")
            except openai.APIConnectionError:
                pass  # the worker that held this connection was killed

    clients = [threading.Thread(target=client) for _ in range(3)]
    for thread in clients:
        thread.start()
    try:
        for role in ("control", "agent", "gateway", "control", "agent"):
            pid = house.pid(role)
            house.kill(pid)
            until(lambda role=role, pid=pid: house.pid(role) != pid)
            until(lambda: _serves(house))
    finally:
        done.set()
        for thread in clients:
            thread.join()
    assert wrong == []
    until(lambda: _answers(house))
    usage = house.client.usage()
    assert usage["total"]["requests"] > 0


def _answers(house: House) -> bool:
    try:
        return bool(house.client.services()["node"]["here"])
    except BastideError:
        return False


def _serves(house: House) -> bool:
    try:
        return "Paris" in house.ask(CAPITAL, max_tokens=12)
    except openai.APIError:
        return False
