"""Wheels made on the spot, so that nothing is fetched: small ones by hand, and installed packages packed again."""

from __future__ import annotations

import importlib.metadata
import io
import re
import tarfile
import zipfile
from pathlib import Path

FASTAPI = ("fastapi", "uvicorn", "websockets")


def small_wheel(directory: Path, name: str, version: str = "1.0", code: str = "") -> Path:
    """A pure wheel of one module."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return path


def installed_wheels(directory: Path, names: tuple[str, ...] = FASTAPI) -> Path:
    """The installed packages of these names, and those they need, as wheels."""
    directory.mkdir(parents=True, exist_ok=True)
    done: set[str] = set()
    queue = list(names)
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in done:
            continue
        done.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # needed elsewhere only
        queue += [
            match[0]
            for line in found.requires or ()
            if "extra ==" not in line and (match := re.match(r"[A-Za-z0-9._-]+", line)) is not None
        ]
        _pack(found, directory)
    return directory


def _pack(found: importlib.metadata.Distribution, directory: Path) -> None:
    about = found.read_text("WHEEL") or ""
    tag = next(line.partition(": ")[2] for line in about.splitlines() if line.startswith("Tag: "))
    name = re.sub(r"[-_.]+", "_", found.metadata["Name"])
    inside = [
        file
        for file in found.files or ()
        if ".." not in file.parts and "__pycache__" not in file.parts and not file.is_absolute()
    ]
    skipped = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
    with zipfile.ZipFile(directory / f"{name}-{found.version}-{tag}.whl", "w") as wheel:
        listed = ""
        info = next(file.parts[0] for file in inside if file.parts[0].endswith(".dist-info"))
        for file in inside:
            if file.parts[0] == info and file.name in skipped:
                continue
            wheel.write(str(file.locate()), str(file))
            listed += f"{file},,\n"
        wheel.writestr(f"{info}/RECORD", listed + f"{info}/RECORD,,\n")


def tar_of(
    files: dict[str, bytes | str], links: dict[str, str] | None = None, programs: tuple[str, ...] = ()
) -> io.BytesIO:
    """A tar in memory."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755 if name in programs else 0o644
            tar.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    made.seek(0)
    return made
