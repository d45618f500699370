"""The three sizes that are measured: the built-in model and two files of random weights in well-known shapes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from bastide.builtin.tiny import weights_path

CONTEXT_TOKENS = 2048
PROMPT = "What is the capital of France, and why is the sky blue in the morning?"


def source(name: str, work: Path) -> tuple[str, Path]:
    """(URL as a spec has it, path of the file). Random weights are written once and kept in `work`."""
    if name == "tiny":
        return "builtin://tiny", Path(weights_path())
    path = work / f"{name}.gguf"
    if not path.exists():
        script = Path(__file__).with_name("shapes.py")
        subprocess.run([sys.executable, str(script), "--shape", name, "--out", str(path)], check=True)
    return f"file://{path}", path


def spec(name: str, url: str, sleep: str = "{deep: 12h}", in_flight: int = 4, cpu: int = 2) -> str:
    """One service's lines, to be put under `services:`."""
    return (
        f"  {name}:\n    model: {url}\n    replicas: 0..1\n    context: {CONTEXT_TOKENS}\n    sleep: {sleep}\n"
        f"    target: {{in_flight: {in_flight}}}\n    resources: {{cpu: {cpu}}}\n    hold: {{wait: 5m, queue: 64}}\n"
    )


def request(model: str, tokens: int = 4, first: str = "") -> dict[str, Any]:
    """A short question, answered greedily with exactly so many tokens. Another `first` word: one not asked before."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"{first} {PROMPT}" if first else PROMPT}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
