"""chat: talk to a model in the terminal, and see it wake."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer
from rich.text import Text

from bastide.cli.context import client_of
from bastide.cli.show import err, out
from bastide.domain.errors import BastideError, InternalError, InvalidSpec, error_types
from bastide.domain.units import format_duration
from bastide.sdk import Client


def register(app: typer.Typer) -> None:
    app.command()(chat)


def chat(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model.", metavar="MODEL")],
    message: Annotated[list[str] | None, typer.Argument(help="Say this and end; else a conversation.")] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens of an answer.")] = None,
) -> None:
    """Talk to a model. Answers stream; while it wakes, you see what happens."""
    client = client_of(context)
    history: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    options = {"max_tokens": max_tokens} if max_tokens else {}
    if message:
        history.append({"role": "user", "content": " ".join(message)})
        _answer(client, model, history, options)
        return
    err.print(Text(f"talking to {model}; an empty line or Ctrl-D ends", "bright_black"))
    while True:
        try:
            text = input("> ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
        except (EOFError, KeyboardInterrupt):
            return
        if not text.strip():
            return
        history.append({"role": "user", "content": text})
        try:
            history.append({"role": "assistant", "content": _answer(client, model, history, options)})
        except BastideError as error:
            err.print(Text.assemble(("error: ", "bold red"), error.message))
            history.pop()


def _answer(client: Client, model: str, history: list[dict[str, Any]], options: dict[str, Any]) -> str:
    """Print an answer as it streams; returns it whole."""
    began = time.monotonic()
    first_s: float | None = None
    parts: list[str] = []
    headers: dict[str, str] = {}
    with err.status("", spinner="dots") as status:
        for line in client.chat(model, history, headers=headers, **options):
            if line.startswith(":"):
                said = line[1:].strip()
                if said.startswith("{"):  # the facts of a stream that was held, too late for headers
                    headers.update(json.loads(said))
                else:
                    status.update(Text(said, "bright_black"))
                continue
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                error = event["error"]
                kind = error_types().get(str(error.get("code")), InternalError)
                raise (kind if kind is not InvalidSpec else InternalError)(
                    str(error.get("message", "the model failed"))
                )
            for choice in event.get("choices", ()):
                text = choice.get("delta", {}).get("content")
                if text:
                    if first_s is None:
                        first_s = time.monotonic() - began
                        status.stop()
                    out.file.write(text)
                    out.file.flush()
                    parts.append(text)
    out.file.write("\n")
    if first_s is not None:
        rung = headers.get("x-bastide-wake", "")
        took = f"first token after {format_duration(first_s)}"
        took += f", awake from {rung}" if rung not in ("", "awake") else ""
        took += f"; all after {format_duration(time.monotonic() - began)}"
        err.print(Text(took, "bright_black"))
    return "".join(parts)
