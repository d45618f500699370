"""What every body of a request has in common: unknown fields are refused, and so is text that can't be written down."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_validator


class Body(BaseModel, extra="forbid"):
    @model_validator(mode="before")
    @classmethod
    def whole_text(cls, given: Any) -> Any:
        """JSON can hold half a character (a lone surrogate), which is no text: nothing can keep it, send it or show it."""
        _check(given)
        return given


def _check(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a character (a lone surrogate)") from None
    elif isinstance(value, dict):
        for name, one in value.items():
            _check(name)
            _check(one)
    elif isinstance(value, list):
        for one in value:
            _check(one)
