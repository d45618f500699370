"""Bastide: the whole AI cloud as one open Python package, for machines people own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bastide.sdk import AsyncSandbox, Client, Sandbox

__version__ = "0.1.0"
__all__ = ["AsyncSandbox", "Client", "Sandbox", "__version__"]


def __getattr__(name: str) -> Any:
    """The clients, imported when they are first asked for: Bastide's own processes never need them."""
    if name in ("AsyncSandbox", "Client", "Sandbox"):
        import bastide.sdk

        return getattr(bastide.sdk, name)
    raise AttributeError(f"module 'bastide' has no attribute {name!r}")
