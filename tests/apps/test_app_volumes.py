"""Volumes with a size: a bound that holds, shared by two generations, grown while in use, and never turned into another kind."""

from __future__ import annotations

import os
from typing import Any

import pytest
from app_town import Town
from house import until

from bastide.adapters.isolation.volumes import sizes_refused
from bastide.domain.errors import InvalidRequest, InvalidSpec

MIB = 2**20
KEEPER = """
import errno, http.server, json, os
MARK = "first"
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/fill":
            try:
                with open("/data/large", "wb") as file:
                    for _ in range(512): file.write(b"x" * 2**20); file.flush()
                told = "all"
            except OSError as error: told = errno.errorcode[error.errno]
            told = [told, os.path.getsize("/data/large") >> 20]
        elif self.path == "/empty": os.unlink("/data/large"); told = "gone"
        elif self.path == "/add":
            with open("/data/kept", "a") as file: file.write(MARK + " ")
            told = open("/data/kept").read().split()
        else: told = sorted(os.listdir("/data"))
        body = json.dumps(told).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def enforced() -> None:
    refused = sizes_refused()
    if refused is not None:
        pytest.skip(refused)


def deployed(town: Town, name: str, size: str | None, code: str = KEEPER, **spec: Any) -> dict[str, Any]:
    volume = {"name": "data", "path": "/data", **({"size": size} if size else {})}
    return town.deploy(name, {"main.py": code}, volumes=[volume], **spec)


@pytest.mark.parametrize("tier", ["namespace", "gvisor"])
def test_a_size_holds_grows_and_outlives_generations(town: Town, tier: str) -> None:
    name = f"kept-{tier}"
    end = deployed(town, name, "16MiB", isolation=tier)
    if tier == "gvisor" and "does not hold" in end.get("reason", ""):
        pytest.skip("the gvisor tier does not hold here")
    assert end["phase"] == "ready", end
    assert town.json(name) == [], "empty: programs that want an empty directory get one"
    assert town.json(name, "/add") == ["first"]
    error, filled = town.json(name, "/fill")
    assert error == "ENOSPC" and filled < 16
    # The next generation is well before the old one goes: for a moment both have it mounted, and nothing is lost.
    end = deployed(town, name, "64MiB", KEEPER.replace('"first"', '"second"'), isolation=tier)
    assert end["phase"] == "ready", end
    assert town.json(name, "/add") == ["first", "second"]
    until(lambda: 16 < _refilled(town, name) < 64)


def _refilled(town: Town, name: str) -> int:
    """What fits after a start of its own. It grows under the old generation too, but for that a right is needed that not every root has."""
    town.json(name, "/empty")
    town.house.client.sleep(name, "deep")
    error, filled = town.json(name, "/fill")
    assert error == "ENOSPC"
    return int(filled)


def test_another_kind_is_refused_and_what_served_serves_on(town: Town) -> None:
    assert deployed(town, "plain", None)["phase"] == "ready"
    with pytest.raises(InvalidRequest, match="one replica at most"):
        town.house.client.scale("plain", "0..2")
    town.json("plain", "/add")
    end = deployed(town, "plain", "16MiB", rollout="rolling")
    assert end["failed"] and "was made without a size" in end["reason"]
    assert town.json("plain", "/add") == ["first", "first"]


def test_a_size_below_what_there_is_is_refused_and_a_rollback_keeps_it(town: Town) -> None:
    assert deployed(town, "shrunk", "16MiB")["phase"] == "ready"
    assert deployed(town, "shrunk", "32MiB")["phase"] == "ready"
    with pytest.raises(InvalidSpec, match="can't be made smaller"):
        deployed(town, "shrunk", "16MiB")
    town.house.client.rollback("shrunk")
    until(lambda: any(i["generation"] == 3 for i in town.house.client.service("shrunk")["instances"]))
    assert town.json("shrunk", "/add") == ["first"]


@pytest.mark.parametrize("size", ["4MiB", "0", "99TiB"])
def test_what_is_no_size_is_refused(town: Town, size: str) -> None:
    with pytest.raises(InvalidSpec, match="no size for a volume"):
        deployed(town, "odd", size)


def test_one_that_lies_in_another_is_there(town: Town) -> None:
    volumes = [
        {"name": "inner", "path": "/data/b", "size": "16MiB"},
        {"name": "outer", "path": "/data", "size": "16MiB"},
    ]
    assert town.deploy("nested", {"main.py": KEEPER}, volumes=volumes)["phase"] == "ready"
    assert town.json("nested") == ["b"]


def test_nothing_is_left_mounted(rough_town: Town) -> None:
    assert deployed(rough_town, "gone", "16MiB")["phase"] == "ready"
    rough_town.json("gone", "/add")
    file = next((rough_town.house.data / "volumes").rglob("*.ext4"))
    assert str(file) in _loops()
    rough_town.house.end()
    assert str(file) not in _loops()


def _loops() -> str:
    found = []
    for name in os.listdir("/sys/block"):
        path = f"/sys/block/{name}/loop/backing_file"
        if os.path.exists(path):
            with open(path) as file:
                found.append(file.read())
    return "".join(found)
