"""Deep sleep where the tier can save processes: an app goes on with its memory, its key and its volumes, or starts anew, never half."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_town import Town
from house import until

from bastide.domain.isolation import Tier
from bastide.wiring.isolation import examined

COUNTER = """
import http.server, json, os, urllib.request
count = 0
blob = os.urandom(8_000_000)
import hashlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        count += 1
        told = {"count": count, "sum": hashlib.sha256(blob).hexdigest(), "token": os.environ.get("API_TOKEN"), "key": os.environ["BASTIDE_API_KEY"]}
        if self.path == "/models":
            asked = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/models", headers={"Authorization": "Bearer " + os.environ["BASTIDE_API_KEY"]})
            told["models"] = urllib.request.urlopen(asked).status
        body = json.dumps(told).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def deployed(town: Town, name: str, tier: str, **spec: object) -> None:
    if tier == "namespace" and not keeps_namespace():
        pytest.skip("the namespace tier can't save processes here: CRIU does not hold")
    end = town.deploy(name, {"main.py": COUNTER}, isolation=tier, **spec)
    if end["failed"]:
        assert "does not hold on this machine" in end["reason"], end
        pytest.skip("the gvisor tier does not hold here")


@functools.cache
def keeps_namespace() -> bool:
    """Whether CRIU was proven here; found out once."""
    return next(report for report in examined() if report.tier is Tier.NAMESPACE).pauses


@pytest.fixture(params=["namespace", "gvisor"])
def tier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def kept(town: Town) -> list[Path]:
    return list((town.house.data / "isolation/apps/kept").glob("*/whole"))


def test_it_goes_on_where_it_left_off(town: Town, tier: str) -> None:
    name = f"counter-{tier}"
    deployed(town, name, tier)
    first = town.json(name)
    for round_ in range(3):
        town.house.client.sleep(name, "deep")
        assert kept(town), "its processes are on disk"
        seen = town.json(name, "/models" if round_ == 1 else "/")
        assert seen["count"] == first["count"] + round_ + 1 and seen["sum"] == first["sum"]
        assert seen["key"] == first["key"] and seen.get("models", 200) == 200
        assert not kept(town), "awake again, nothing of its memory stays on disk"


def test_a_changed_secret_makes_it_start_anew(town: Town, tier: str) -> None:
    name = f"secretive-{tier}"
    town.house.client.set_secret("api-token", "before")
    deployed(town, name, tier, secrets=["api-token"])
    first = town.json(name)
    town.house.client.sleep(name, "deep")
    town.house.client.set_secret("api-token", "after")
    seen = town.json(name)
    assert seen["token"] == "after" and seen["count"] == 1 and seen["key"] != first["key"] and not kept(town)


def test_what_can_t_be_brought_back_starts_anew(town: Town, tier: str) -> None:
    name = f"torn-{tier}"
    deployed(town, name, tier)
    first = town.json(name)
    town.house.client.sleep(name, "deep")
    for file in kept(town)[0].parent.joinpath("image").iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    seen = town.json(name)
    assert seen["count"] == 1 and seen["sum"] != first["sum"] and not kept(town)


@pytest.fixture
def counted(rough_town: Town, tier: str) -> Iterator[Town]:
    deployed(rough_town, "counter", tier)
    yield rough_town


def test_a_killed_agent_starts_it_anew(counted: Town) -> None:
    counted.json("counter")
    counted.house.client.sleep("counter", "deep")
    counted.house.kill(counted.house.pid("agent"))
    until(lambda: counted.json("counter")["count"] >= 1)
    assert not kept(counted)
