"""What the gateway costs per request, beside nginx (a plain forward) and LiteLLM's proxy (where it is installed).

    python benchmarks/gateway/overhead.py --bench-dir DIR [--litellm PATH/TO/litellm] [--seconds 4] [--rounds 3]

DIR holds `up.c` (a fake OpenAI upstream) and `ld.c` (a closed-loop load client). The server under test has core 0 to
itself, upstream and load share core 1. Keys, rate limits, a budget and the ledger are on. CPU per request is what the
kernel counted for all the server's threads (/proc/PID/task/*/schedstat), which is steadier than wall time on a shared
machine. Each number is the median of the rounds. Writes benchmarks/results/gateway.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bastide.adapters.link.unix import serve
from bastide.domain.keys import KeyGrant, Limits, hash_key
from bastide.domain.routes import InstanceRef, ModelRoute, RoutingTable, ServiceRoute
from bastide.domain.spec import Price
from bastide.gateway.settings import GatewaySettings

KEY = "sk-test-1234"  # what ld sends
SERVER_CORE, LOAD_CORE = "0", "1"
CHUNKS = 100
HERE = Path(__file__).parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for(port: int, within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


@contextlib.contextmanager
def process(*argv: str, core: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        ["taskset", "-c", core, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def cpu_s(pid: int) -> float:
    """CPU time of a process and all its children, by the kernel's own count."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
        for child in (task / "children").read_text().split():
            total += int(cpu_s(int(child)) * 1e9)
    return total / 1e9


async def load(tool: Path, port: int, connections: int, seconds: float, streamed: bool) -> dict[str, float]:
    child = await asyncio.create_subprocess_exec(
        "taskset", "-c", LOAD_CORE, str(tool), str(port), str(connections), str(seconds), "1" if streamed else "0",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await child.communicate()
    result: dict[str, float] = json.loads(out)
    if result["bad"]:
        print(f"  {result['bad']} bad answers on port {port}", file=sys.stderr)
    return result


@contextlib.asynccontextmanager
async def gateway(directory: Path, upstream_port: int) -> AsyncIterator[tuple[int, int]]:
    """Port and process id of a worker with everything on."""
    run = Path(tempfile.mkdtemp(prefix="g", dir=directory))
    agent_path, control_path = str(run / "agent"), str(run / "control")
    table = RoutingTable(
        1,
        (
            ServiceRoute(
                "default", "fake", 1, price=Price(100, 10, 1000), target_in_flight=64,
                instances=(InstanceRef("default.fake.1.0", agent_path),),
            ),
        ),
        (ModelRoute("default", "fake", (("fake", 1),)),),
        (KeyGrant("k", hash_key(KEY), "default", limits=Limits(10**9, 10**12, 10**6, 10**18)),),
    )  # fmt: skip

    async def agent(link: Any, verb: str, body: Any, notify: Any) -> Any:
        return {"address": f"127.0.0.1:{upstream_port}", "secret": "s", "woke_from": "awake", "wake_s": 0.0, "pid": 1}

    async def control(link: Any, verb: str, body: Any, notify: Any) -> Any:
        return {"granted_pico": 10**17}

    servers = [
        await serve(agent_path, agent),
        await serve(control_path, control, lambda link: link.tell("routes", msgspec.to_builtins(table))),
    ]
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    settings = GatewaySettings(
        "gateway-0", secrets.token_hex(8), 0, 1, listener.fileno(), control_path, str(run / "http"), str(run / "table")
    )
    words = [
        sys.executable,
        str(HERE / "worker_child.py"),
        msgspec.json.encode(settings).decode(),
        str(run / "journal"),
    ]
    with process(*words, core=SERVER_CORE, pass_fds=(listener.fileno(),)) as child:
        port = listener.getsockname()[1]
        for _ in range(200):
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
                if b" 200 " in answer:
                    break
            await asyncio.sleep(0.05)
        yield port, child.pid
    listener.close()
    for server in servers:
        server.close()


NGINX = """
worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log /dev/null crit; master_process on;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s; keepalive_requests 100000000;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
}}
"""

LITELLM = """
model_list:
  - model_name: fake
    litellm_params: {{model: openai/fake, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
general_settings: {{master_key: sk-test-1234}}
"""


async def measured(
    tool: Path, port: int, pid: int, seconds: float, rounds: int, connections: int = 16
) -> dict[str, float]:
    """CPU per request and rates, under load and at one connection."""
    seen: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        seen.setdefault(name, []).append(value)

    await load(tool, port, connections, 1.0, streamed=False)
    for _ in range(rounds):
        for streamed in (False, True):
            before, began = cpu_s(pid), time.monotonic()
            result = await load(tool, port, connections, seconds, streamed)
            took_s, used_s = time.monotonic() - began, cpu_s(pid) - before
            # ld leaves the first 15 % of its time out of its count; the rate it saw holds for the whole.
            requests = result["rps"] * took_s
            name = "streamed" if streamed else "plain"
            note(f"{name}_cpu_us", used_s * 1e6 / requests)
            note(f"{name}_requests_s", result["rps"])
            if streamed:
                note("chunks_s", result["chunks_s"])
        before, began = cpu_s(pid), time.monotonic()
        alone = await load(tool, port, 1, seconds, streamed=False)
        # At one connection every write wakes a sleeping peer, whoever serves: the fair side of a closed loop.
        note("alone_cpu_us", (cpu_s(pid) - before) * 1e6 / (alone["rps"] * (time.monotonic() - began)))
        note("latency_p50_ms", alone["p50"] / 1000)
        note("latency_p99_ms", alone["p99"] / 1000)
    return {name: round(statistics.median(values), 3) for name, values in seen.items()}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench-dir", type=Path, required=True)
    parser.add_argument("--litellm", help="the litellm program of its own environment; left out where there is none")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="measure this one alone and write nothing")
    asked = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        directory = Path(name)
        for tool in ("up", "ld"):
            subprocess.run(["gcc", "-O2", "-w", "-o", directory / tool, asked.bench_dir / f"{tool}.c"], check=True)  # noqa: ASYNC221
        tool, upstream = directory / "ld", free_port()
        with process(
            str(directory / "up"), str(upstream), str(CHUNKS), "0", core=LOAD_CORE, env=os.environ | {"OAI": "1"}
        ) as up:
            wait_for(upstream)
            if not asked.only:
                found["direct"] = await measured(tool, upstream, up.pid, asked.seconds, asked.rounds)
            if asked.only in ("", "bastide"):
                async with gateway(directory, upstream) as (port, pid):
                    found["bastide"] = await measured(tool, port, pid, asked.seconds, asked.rounds)
            if asked.only in ("", "nginx") and shutil.which("nginx"):
                port = free_port()
                (directory / "nginx.conf").write_text(NGINX.format(directory=directory, port=port, upstream=upstream))
                words = ("nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"))
                with process(*words, core=SERVER_CORE) as child:
                    wait_for(port)
                    found["nginx"] = await measured(tool, port, child.pid, asked.seconds, asked.rounds)
            if asked.litellm and asked.only in ("", "litellm"):
                port = free_port()
                (directory / "litellm.yaml").write_text(LITELLM.format(upstream=upstream))
                words = (
                    asked.litellm,
                    "--config",
                    str(directory / "litellm.yaml"),
                    "--port",
                    str(port),
                    "--host",
                    "127.0.0.1",
                )
                with process(*words, core=SERVER_CORE) as child:
                    wait_for(port, 180)
                    found["litellm"] = await measured(tool, port, child.pid, asked.seconds, asked.rounds, connections=4)
    report(found, write=not asked.only)


def report(found: dict[str, dict[str, float]], write: bool) -> None:
    names = sorted({name for values in found.values() for name in values})
    print(f"{'':22}" + "".join(f"{server:>12}" for server in found))
    for name in names:
        print(f"{name:22}" + "".join(f"{values.get(name, float('nan')):12.3f}" for values in found.values()))
    ours, theirs = found.get("bastide"), found.get("nginx")
    bars: dict[str, dict[str, float | bool]] = {}

    def bar(name: str, value: float, limit: float, at_most: bool = True) -> None:
        met = value <= limit if at_most else value >= limit
        bars[name] = {"value": round(value, 3), "bar": limit, "met": met}
        print(f"{name:44} {value:9.3f}  {'<=' if at_most else '>='} {limit:<8} {'met' if met else 'MISSED'}")

    if ours and theirs:
        bar("CPU per plain request, times nginx", ours["plain_cpu_us"] / theirs["plain_cpu_us"], 2.5)
        bar("the same at one connection, times nginx", ours["alone_cpu_us"] / theirs["alone_cpu_us"], 2.5)
        bar("CPU per streamed request, times nginx", ours["streamed_cpu_us"] / theirs["streamed_cpu_us"], 2.5)
        bar("chunks a second on one core, times nginx", ours["chunks_s"] / theirs["chunks_s"], 0.7, at_most=False)
    if ours and "direct" in found:
        bar("added latency p50, ms", ours["latency_p50_ms"] - found["direct"]["latency_p50_ms"], 0.3)
        bar("added latency p99, ms", ours["latency_p99_ms"] - found["direct"]["latency_p99_ms"], 1.5)
    if ours and "litellm" in found:
        bar("CPU per plain request, times LiteLLM", ours["plain_cpu_us"] / found["litellm"]["plain_cpu_us"], 0.01)
    if write:
        results = HERE.parent / "results"
        results.mkdir(exist_ok=True)
        (results / "gateway.json").write_text(
            json.dumps({"chunks_each": CHUNKS, "servers": found, "bars": bars}, indent=1) + "\n"
        )


if __name__ == "__main__":
    asyncio.run(main())
