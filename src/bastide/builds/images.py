"""OCI images: found in what was uploaded or brought from a registry, unpacked to a root, and read for how they are run.

skopeo brings and converts, umoci unpacks; this owns how they are called and what is believed of an image. Every document
of an image is read by its digest. Nothing of it is ever run here.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import stat
import sys
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from bastide.builds import tools
from bastide.domain.errors import InvalidRequest, Unsupported

REGISTRY = "docker://"
NAME = "image"  # what an image is called in a layout of our own
DOCUMENT_BYTES_MAX = 4 * 2**20
# Programs of most images write here, in a root that is read-only to them.
USUALLY_WRITTEN = ("/run", "/var/cache", "/var/lib/nginx", "/var/log", "/var/run", "/var/tmp")
_REFERENCE = re.compile(r"docker://[A-Za-z0-9][A-Za-z0-9._:/@-]{1,400}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image says of itself. `port`: the one that it exposes, where it is one; `writes`: where it wants to write."""

    digest: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    directory: str
    port: int | None
    writes: tuple[str, ...]


def program(name: str) -> str:
    """skopeo or umoci: beside Bastide's own programs, or from PATH. Raises Unsupported."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        raise Unsupported(f"images need {name}, which is not on this machine: apt-get install {name}")
    return found


def is_reference(image: str) -> bool:
    return _REFERENCE.fullmatch(image) is not None


def unpack(image: str, source: Path | None, work: Path, say: tools.Say) -> tuple[Path, ImageFacts]:
    """(the root, below `work`; what the image says). `source`: what was uploaded, None for a registry's.

    Raises InvalidRequest where it is no image or not for this machine, Unavailable where its registry can't be reached.
    """
    layout = work / "layout"
    if source is None:
        _copied(image, layout, say)
    else:
        _laid_out(source, layout, work, say)
    manifest, facts = _chosen(layout)
    own = work / "chosen"
    _own_layout(layout, own, manifest)
    say(f"{facts.digest[:19]} for {_platform()}, {len(_document(layout, manifest)['layers'])} layers")
    bundle = work / "bundle"
    tools.run([program("umoci"), "unpack", "--rootless", "--image", f"{own}:{NAME}", str(bundle)], work, {}, say)
    root = bundle / "rootfs"
    _readable(root)
    usual = (path for path in USUALLY_WRITTEN if (root / path[1:]).is_dir() and not (root / path[1:]).is_symlink())
    return root, replace(facts, writes=tuple(sorted({*facts.writes, *usual})))


def _copied(image: str, layout: Path, say: tools.Say, archive: Path | None = None) -> None:
    """By skopeo, into a layout."""
    given = image if archive is None else f"docker-archive:{archive}"
    say("fetching the image" if archive is None else "reading a Docker archive")
    argv = [program("skopeo"), "copy", "--quiet", "--insecure-policy", "--override-os", "linux",
            "--override-arch", _platform().partition("/")[2], given, f"oci:{layout}:{NAME}"]  # fmt: skip
    tools.run(argv, layout.parent, {}, say)


def _laid_out(source: Path, layout: Path, work: Path, say: tools.Say) -> None:
    """A layout out of what was uploaded: one already, or an archive of one, or Docker's."""
    if (source / "oci-layout").is_file():
        _plain(source)
        layout.symlink_to(source)
        return
    files = [path for path in source.iterdir() if path.is_file() and not path.is_symlink()]
    if len(files) != 1:
        raise InvalidRequest("what was uploaded is no image: it must be an OCI layout, or one archive of an image")
    try:
        with tarfile.open(files[0]) as tar:
            names = {name.removeprefix("./") for name in tar.getnames()}
            if "oci-layout" in names:
                layout.mkdir()
                tar.extractall(layout, filter="data")
                _plain(layout)
                return
    except (tarfile.TarError, EOFError) as error:
        raise InvalidRequest(f"{files[0].name} is no archive of an image: {error}") from None
    if "manifest.json" not in names:
        raise InvalidRequest(f"{files[0].name} holds no image: there is neither oci-layout nor manifest.json in it")
    _copied("", layout, say, files[0])


def _plain(layout: Path) -> None:
    """A link in a layout could make a layer out of a file of the host's."""
    if any(path.is_symlink() for path in layout.rglob("*")):
        raise InvalidRequest("the image's layout holds links; make it anew, for example with skopeo")


def _chosen(layout: Path) -> tuple[dict[str, Any], ImageFacts]:
    """The descriptor of the manifest for this machine, and what its configuration says."""
    descriptor = _descriptor(_read(layout / "index.json", None), layout, 0)
    manifest = _document(layout, descriptor)
    try:
        config = _document(layout, manifest["config"])
        wanted = _platform()
        given = f"{config.get('os', 'linux')}/{config.get('architecture', wanted.partition('/')[2])}"
        if given != wanted:
            raise InvalidRequest(f"the image is for {given}, this machine is {wanted}")
        return descriptor, _facts(descriptor["digest"], config.get("config") or {})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidRequest(f"the image's documents can't be understood: {error!r}") from None


def _descriptor(index: dict[str, Any], layout: Path, depth: int) -> dict[str, Any]:
    manifests = [entry for entry in index.get("manifests") or () if isinstance(entry, dict) and "digest" in entry]
    operating_system, _, architecture = _platform().partition("/")
    fitting = [
        entry
        for entry in manifests
        if (found := entry.get("platform") or {}).get("architecture", architecture) == architecture
        and found.get("os", operating_system) == operating_system
    ]
    if not fitting:
        raise InvalidRequest(f"there is no image for {_platform()} in it")
    if len(fitting) > 1:
        names = [(entry.get("annotations") or {}).get("org.opencontainers.image.ref.name", "?") for entry in fitting]
        raise InvalidRequest(f"it holds {len(fitting)} images ({', '.join(map(str, names))}); upload one of them alone")
    if fitting[0].get("mediaType") in _INDEXES and depth < 3:
        return _descriptor(_document(layout, fitting[0]), layout, depth + 1)
    return fitting[0]


def _facts(digest: str, config: dict[str, Any]) -> ImageFacts:
    argv = tuple(str(word) for word in (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())))
    pairs = (str(text).partition("=") for text in config.get("Env") or ())
    exposed = [str(port) for port in config.get("ExposedPorts") or {}]
    ports = [int(port.partition("/")[0]) for port in exposed if not port.endswith("/udp")]
    writes = tuple(sorted(_inside(path) for path in config.get("Volumes") or {}))
    return ImageFacts(
        digest, argv, tuple((name, value) for name, _, value in pairs if name), _inside(config.get("WorkingDir") or "/"),
        ports[0] if len(ports) == 1 and 0 < ports[0] < 65536 else None, writes,
    )  # fmt: skip


def _inside(path: Any) -> str:
    text = str(path)
    if not text.startswith("/") or ".." in text.split("/") or "\0" in text:
        raise ValueError(f"{text!r} is no path inside")
    return os.path.normpath(text)


def _document(layout: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
    algorithm, _, digest = str(descriptor["digest"]).partition(":")
    if algorithm != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise InvalidRequest(f"{str(descriptor['digest'])[:100]!r} is no digest that is taken")
    return _read(layout / "blobs" / "sha256" / digest, digest)


def _read(path: Path, digest: str | None) -> dict[str, Any]:
    try:
        if path.stat().st_size > DOCUMENT_BYTES_MAX:
            raise InvalidRequest(f"{path.name} of the image is over {DOCUMENT_BYTES_MAX} bytes")
        data = path.read_bytes()
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise InvalidRequest(f"{path.name} of the image is not what its name says")
        found = msgspec.json.decode(data)
    except (OSError, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"the image is not whole: {path.name}: {error}") from None
    if not isinstance(found, dict):
        raise InvalidRequest(f"{path.name} of the image is no document")
    return found


def _own_layout(layout: Path, own: Path, descriptor: dict[str, Any]) -> None:
    """One that holds this image alone, by a name that we know; the blobs are shared."""
    own.mkdir()
    (own / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    named = {"mediaType": _MANIFEST, **descriptor, "annotations": {"org.opencontainers.image.ref.name": NAME}}
    (own / "index.json").write_bytes(msgspec.json.encode({"schemaVersion": 2, "manifests": [named]}))
    (own / "blobs").symlink_to((layout / "blobs").resolve())


def _readable(root: Path) -> None:
    """By the box's user, who is nobody the image knows. Nothing keeps a right that only an owner needs."""
    for base, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(base, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode):
                os.chmod(path, 0o755)
            elif stat.S_ISREG(mode):
                os.chmod(path, 0o755 if mode & 0o111 else 0o644)
    root.chmod(0o755)


def _platform() -> str:
    machine = platform.machine()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"
