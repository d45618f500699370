"""Finding the running Bastide: BASTIDE_URL and BASTIDE_API_KEY, else what the data directory says of the one on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

from bastide.domain.errors import Unavailable


def find(data: Path | None = None) -> tuple[str, str]:
    """(URL, key). Raises Unavailable, which says how to start one or where to set them."""
    url, key = os.environ.get("BASTIDE_URL"), os.environ.get("BASTIDE_API_KEY")
    if url and key and data is None:
        return url, key
    directory = data or Path(os.environ.get("BASTIDE_DATA") or Path.home() / ".bastide")
    try:
        url = url or str(json.loads((directory / "running.json").read_text())["url"])
    except (OSError, ValueError, KeyError):
        raise Unavailable(
            f"no Bastide runs on {directory}; start one with `bastide up`, or set BASTIDE_URL and BASTIDE_API_KEY"
        ) from None
    try:
        key = key or (directory / "admin.key").read_text().strip()
    except OSError as error:
        raise Unavailable(
            f"the key in {directory / 'admin.key'} can't be read ({error.strerror}); set BASTIDE_API_KEY to a key of yours"
        ) from None
    return url, key
