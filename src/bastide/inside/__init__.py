"""What runs inside every box, by path and with nothing but the standard library. Nothing of Bastide is imported there."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent
SHOWN_AT = "/run/bastide/inside"  # where a box sees this directory
