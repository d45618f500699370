"""Where the public traces are, for tests that need them; they are too large for the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def needs(*names: str) -> pytest.MarkDecorator:
    """Skips by name where the traces are not beside the repository."""
    lacking = [name for name in names if not (DATA / name).is_file()]
    return pytest.mark.skipif(bool(lacking), reason=f"the public traces are not here: {', '.join(lacking)}")
