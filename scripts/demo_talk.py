"""How the demo asks models: through the official openai client, with every answer timed and its tokens added up.

Must never talk to an engine itself, nor read anything but what any client gets.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import yaml

PICO = 10**12
CAPITAL, WHAT, STORY = "What is the capital of France?", "What is Bastide?", "Tell me a short story"


@dataclass
class Told:
    """Tokens as clients were told them, and what they cost by the prices in the spec."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_pico: int = 0


@dataclass
class Answer:
    """One answer. Times in seconds since the request was made; `rung`: the one its instance woke from."""

    text: str = ""
    first_token_s: float = 0.0
    all_s: float = 0.0
    rung: str = ""
    output_tokens: int = 0
    pieces: list[str] = field(default_factory=list)


class Talk:
    """A client with one key. `told` may be shared between several, to add up what all of them were told."""

    def __init__(self, url: str, key: str, prices: dict[str, dict[str, Decimal]], told: Told) -> None:
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60.0)
        self._prices, self.told = prices, told
        self.last = Answer()

    def ask(self, model: str, text: str, max_tokens: int | None = None) -> Answer:
        """A whole answer."""
        for _ in self.stream(model, text, max_tokens):
            pass
        return self.last

    def stream(self, model: str, text: str, max_tokens: int | None = None) -> Iterator[str]:
        """The pieces as they come; afterwards `last` has the figures. Raises what the openai client raises."""
        answer = self.last = Answer()
        options: dict[str, Any] = {"max_tokens": max_tokens} if max_tokens else {}
        began = time.monotonic()
        raw = self._client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": text}],
            stream=True,
            stream_options={"include_usage": True},
            temperature=0,
            **options,
        )
        answer.rung = raw.headers.get("x-bastide-wake", "")
        for event in raw.parse():
            if event.usage is not None:
                self._add(model, event.usage, answer)
            piece = event.choices[0].delta.content if event.choices else None
            if piece:
                if not answer.pieces:
                    answer.first_token_s = time.monotonic() - began
                answer.pieces.append(piece)
                yield piece
        answer.all_s = time.monotonic() - began
        answer.text = "".join(answer.pieces)

    def _add(self, model: str, usage: Any, answer: Answer) -> None:
        cached = (usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0) or 0
        price = self._prices[model]
        cost = (
            (usage.prompt_tokens - cached) * price["input_per_mtok"]
            + cached * price["cached_input_per_mtok"]
            + usage.completion_tokens * price["output_per_mtok"]
        ) / 10**6
        answer.output_tokens = usage.completion_tokens
        self.told.requests += 1
        self.told.input_tokens += usage.prompt_tokens
        self.told.cached_input_tokens += cached
        self.told.output_tokens += usage.completion_tokens
        self.told.cost_pico += int(cost * PICO)


def prices_of(spec: Path) -> dict[str, dict[str, Decimal]]:
    """The prices a spec file declares, per million tokens, by service."""
    services = yaml.safe_load(spec.read_text())["services"]
    return {
        name: {what: Decimal(str(amount)) for what, amount in service["price"].items()}
        for name, service in services.items()
    }
