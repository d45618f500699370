"""Typed clients of Bastide: of its control API, and of sandboxes. For models, use any OpenAI client with this URL and key."""

from __future__ import annotations

from bastide.sdk.async_sandbox import AsyncSandbox
from bastide.sdk.client import Client
from bastide.sdk.sandbox import Execution, Process, Result, Sandbox, Snapshot
from bastide.sdk.sandbox_files import Entry

__all__ = ["AsyncSandbox", "Client", "Entry", "Execution", "Process", "Result", "Sandbox", "Snapshot"]
