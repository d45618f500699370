"""A small OCI image, made from the Python that runs the tests: a root of its own, in two layers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

# What http.server needs of the standard library; the rest would make the image large.
PACKAGES = ("collections", "email", "encodings", "html", "http", "importlib", "json", "re", "urllib", "ctypes")
SERVER = """
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open("/var/log/asked", "a") as file: file.write("x")
        told = {"root": sorted(os.listdir("/")), "here": os.getcwd(), "mark": open("/etc/mark").read(), "gone": os.path.exists("/etc/gone"),
                "colour": os.environ.get("COLOUR"), "port": os.environ["PORT"], "user": os.getuid()}
        body = json.dumps(told).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 5005), Handler).serve_forever()
"""
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _libraries(program: str) -> set[str]:
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return {word for line in said.splitlines() for word in line.split() if word.startswith("/")}


def python_layer() -> bytes:
    """An uncompressed tar: the interpreter at /opt/python, a shell, and the libraries both need."""
    program, prefix = os.path.realpath(sys.executable), Path(os.path.realpath(sys.base_prefix))
    library = Path(sysconfig.get_path("stdlib"))
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", dereference=True) as tar:
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        tar.add(program, "opt/python/bin/python3")
        for file in sorted(library.glob("*.py")):
            tar.add(file, f"opt/python/lib/{name}/{file.name}")
        for package in (*PACKAGES, "lib-dynload"):
            for file in sorted((library / package).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    tar.add(file, f"opt/python/lib/{name}/{file.relative_to(library)}")
        shell = os.path.realpath("/bin/sh")
        tar.add(shell, "bin/sh")
        for path in sorted(_libraries(program) | _libraries(shell)):
            inside = f"lib/{Path(path).name}" if str(prefix) in path and str(prefix) != "/usr" else path.lstrip("/")
            tar.add(os.path.realpath(path), inside)
        for path in sorted(library.joinpath("lib-dynload").glob("*.so")):
            for needed in sorted(_libraries(str(path)) - _libraries(program) - _libraries(shell)):
                if any(word in path.name for word in ("zlib", "_socket", "select", "math")):
                    tar.add(os.path.realpath(needed), needed.lstrip("/"))
        _text(tar, "etc/mark", "first")
        _text(tar, "etc/gone", "the second layer takes it away", mode=0o600)
        _text(tar, "var/log/old", "")
        _text(tar, "srv/serve.py", SERVER, mode=0o600)
    return made.getvalue()


def second_layer() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        _text(tar, "etc/mark", "second", mode=0o640)
        _text(tar, "etc/.wh.gone", "")
    return made.getvalue()


def _text(tar: tarfile.TarFile, name: str, text: str, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text.encode()), mode
    tar.addfile(member, io.BytesIO(text.encode()))


CONFIG: dict[str, Any] = {
    "Env": ["PATH=/opt/python/bin:/bin", "COLOUR=green"], "Entrypoint": ["python3"], "Cmd": ["/srv/serve.py"],
    "WorkingDir": "/srv", "ExposedPorts": {"5005/tcp": {}}, "Volumes": {"/data": {}},
}  # fmt: skip


def layout(
    target: Path, layers: list[bytes], config: dict[str, Any] | None = None, architecture: str = ARCHITECTURE
) -> Path:
    """An OCI layout in the directory `target`."""
    blobs = target / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    kind = "application/vnd.oci.image."
    described = [{"mediaType": f"{kind}layer.v1.tar", **blob(layer)} for layer in layers]
    diffs = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    document = {"architecture": architecture, "os": "linux", "config": CONFIG if config is None else config,
                "rootfs": {"type": "layers", "diff_ids": diffs}}  # fmt: skip
    configured = {"mediaType": f"{kind}config.v1+json", **blob(json.dumps(document).encode())}
    manifest = {"schemaVersion": 2, "mediaType": f"{kind}manifest.v1+json", "config": configured, "layers": described}
    descriptor = {"mediaType": f"{kind}manifest.v1+json", **blob(json.dumps(manifest).encode())}
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    (target / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return target


def archive(layout_directory: Path, file: Path) -> Path:
    with tarfile.open(file, "w") as tar:
        for path in sorted(layout_directory.rglob("*")):
            tar.add(path, str(path.relative_to(layout_directory)), recursive=False)
    return file


def small_layer(names: list[str] | None = None, links: list[tuple[str, str]] | None = None) -> bytes:
    """A layer of small files: those that the tests look for, or `names` after `links` (where, what it says)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for where, says in links or ():
            member = tarfile.TarInfo(where)
            member.type, member.linkname = tarfile.SYMTYPE, says
            tar.addfile(member)
        for name in names or ("etc/mark", "etc/gone", "var/log/old"):
            _text(tar, name, "first")
    return made.getvalue()
