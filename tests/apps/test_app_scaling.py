"""Targets: an app gets another instance when one carries more than was asked, and requests are shared then."""

from __future__ import annotations

import json
import os
import threading

import pytest
from app_town import Town
from house import until

BUSY = """
import http.server, json, os, time
MARK = os.urandom(8).hex()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow": time.sleep(0.12)
        if self.path == "/burn":
            ends = time.process_time() + 0.05
            while time.process_time() < ends: pass
        body = json.dumps(MARK).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


CASES: list[tuple[dict[str, float], str, int]] = [
    ({"rps": 10}, "/", 1),
    ({"p95_ms": 60}, "/slow", 6),
    ({"cpu": 0.1}, "/burn", 2),
]


# The others at length, by `make test-isolation`: what the numbers make of them is in tests/gateway.
@pytest.mark.parametrize(("target", "path", "at_once"), CASES if os.environ.get("BASTIDE_THOROUGH") else CASES[:1])
def test_a_second_instance_shares_what_is_too_much_for_one(
    town: Town, target: dict[str, float], path: str, at_once: int
) -> None:
    name = f"scaled-{next(iter(target)).replace('_', '-')}"
    assert not town.deploy(name, {"main.py": BUSY}, target=target, replicas="0..2")["failed"]
    seen: set[str] = set()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            status, _, body = town.ask(name, path)
            assert status == 200
            seen.add(json.loads(body))

    threads = [threading.Thread(target=ask) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(seen) == 2, 60.0)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_one_is_enough_where_nothing_is_too_much(town: Town) -> None:
    assert not town.deploy("calm", {"main.py": BUSY}, target={"rps": 10_000}, replicas="0..2")["failed"]
    assert len({town.json("calm") for _ in range(50)}) == 1
