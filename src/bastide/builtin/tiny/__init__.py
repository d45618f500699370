"""`builtin://tiny`: a small chat model that ships with Bastide, so that everything works with no network.

Owns where its weights lie, what is promised about them, and how they are made again. Importing it costs nothing: standard
library only, no file is read. Must never import the rest of Bastide.
"""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_WEIGHTS: Final = Path(__file__).parent / "weights"
_NEEDED: Final = ("torch", "tokenizers", "gguf", "numpy")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `weights/manifest.json` promises about the packaged weights. Digests are SHA-256, in hexadecimal."""

    sha256: str
    weights_bytes: int
    recipe_sha256: str
    corpus_sha256: str
    score: float
    document: Mapping[str, Any]


def weights_path() -> Path:
    """The packaged Q8_0 weights, a GGUF file. Raises `FileNotFoundError` when the package was installed without them."""
    path = _WEIGHTS / "tiny.q8_0.gguf"
    if not path.is_file():
        raise FileNotFoundError(
            f"the built-in model is missing at {path}: install Bastide again, or make it with rebuild()"
        )
    return path


def manifest() -> Manifest:
    """Read `weights/manifest.json`. Raises `FileNotFoundError` when it is not there."""
    document = json.loads((_WEIGHTS / "manifest.json").read_text(encoding="utf-8"))
    return Manifest(
        sha256=document["weights"]["sha256"],
        weights_bytes=document["weights"]["bytes"],
        recipe_sha256=document["recipe_sha256"],
        corpus_sha256=document["data"]["sha256"],
        score=document["evaluation"]["overall"],
        document=document,
    )


def is_intact(path: Path | None = None) -> bool:
    """Whether the weights at `path` (the packaged ones by default) are, byte for byte, those of the manifest."""
    with (path or weights_path()).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == manifest().sha256


def rebuild(directory: Path, progress: Callable[[str], None]) -> Path:
    """Train the model again in `directory` (made when missing) and return the path of its Q8_0 weights; about 20 minutes.

    A manifest is written beside them, with the score when the `xllamacpp` engine can be imported. `progress` is called with one
    line of text at a time. Raises `RuntimeError`, which says what to install, when the `train` extra is missing.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"rebuilding the built-in model needs {', '.join(missing)}: run pip install 'bastide[train]'"
        )
    from bastide.builtin.tiny import make

    return make.make(directory, progress)
