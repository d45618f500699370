"""Typed client of Bastide's control API. For models, use any OpenAI client with this URL and key."""

from __future__ import annotations

from bastide.sdk.client import Client

__all__ = ["Client"]
