"""The one place where adapters are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bastide.domain.errors import NotFound, Unavailable
from bastide.engines.app import App
from bastide.engines.llamacpp import LlamaCpp
from bastide.engines.port import Translator
from bastide.weights.library import Library
from bastide.wiring.places import Places


def engines() -> Mapping[str, Translator]:
    """Translators of every engine that can run here, by name."""
    return {LlamaCpp.name: LlamaCpp(), App.name: App()}


class BuiltinModels:
    """`builtin://tiny` as it is shipped, and `builtin://tiny-f16`, `builtin://tiny-q4_0` derived from it on demand."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, name: str) -> str:
        from bastide.builtin import tiny

        if name in ("tiny", "tiny-q8_0"):
            return str(tiny.weights_path())
        quantisation = name.removeprefix("tiny-")
        if name == quantisation or quantisation not in ("f16", "q4_0"):
            raise NotFound(f"there is no built-in model {name!r}; there are tiny, tiny-f16 and tiny-q4_0")
        target = self._directory / f"{name}-{tiny.manifest().sha256[:12]}.gguf"
        if not target.exists():
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                from bastide.builtin.tiny.gguf_writer import derive

                derive(quantisation, tiny.weights_path(), target)
            except ImportError:
                raise Unavailable(
                    f"builtin://{name} is made from builtin://tiny with the package gguf, which is not installed; "
                    "run: pip install 'bastide[quantise]' (from a clone: pip install '.[quantise]'), and start Bastide again"
                ) from None
        return str(target)


def library(places: Places) -> Library:
    """The weights library, with every fetcher whose package is there."""
    from bastide.adapters.weights import fetchers

    return Library(str(places.weights), BuiltinModels(places.weights / "builtin"), fetchers())
