"""From recipe to weights file and manifest.

Owns the order: train, evaluate through the engine, describe. Must never be imported by `__init__` at import time: it needs the
`train` extra.
"""

import hashlib
import importlib.util
import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bastide.builtin.tiny import evaluate
from bastide.builtin.tiny.corpus import conversations, data_manifest
from bastide.builtin.tiny.recipe import RECIPE


def make(directory: Path, progress: Callable[[str], None]) -> Path:
    """Train into `directory` and write the manifest; returns the path of the weights."""
    from bastide.builtin.tiny import train

    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "tiny.q8_0.gguf"
    train.run(RECIPE, target, progress)
    score = None
    if importlib.util.find_spec("xllamacpp") is not None:
        with evaluate.engine(target) as ask:
            score = evaluate.evaluate(ask)
        progress(evaluate.table(score))
    write_manifest(target, score)
    return target


def write_manifest(weights: Path, score: evaluate.Score | None) -> Path:
    """Write `manifest.json` beside the weights: what they are, from which recipe, text and tools, and how well they do."""
    content = weights.read_bytes()
    document: dict[str, Any] = {
        "name": f"builtin://{RECIPE.name}",
        "licence": "Apache-2.0",
        "weights": {"file": weights.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        "recipe": asdict(RECIPE),
        "recipe_sha256": RECIPE.digest(),
        "data": asdict(data_manifest(conversations(RECIPE.seed, RECIPE.conversations))),
        "tools": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "tokenizers", "gguf", "numpy")}
        | ({"xllamacpp": version("xllamacpp")} if score else {}),
        "evaluation": {"overall": score.overall if score else 0.0, "questions": score.questions if score else 0}
        | ({"by_category": score.shares(), "by_form": score.shares_by_form()} if score else {}),
    }
    path = weights.with_name("manifest.json")
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path
