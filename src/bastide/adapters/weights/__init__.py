"""Ways to reach weights elsewhere. Each imports its library only when it is used, for these are optional extras."""

from __future__ import annotations

from bastide.adapters.weights.http import HttpFetcher
from bastide.adapters.weights.hub import HubFetcher
from bastide.adapters.weights.s3 import S3Fetcher
from bastide.weights.fetching import Fetcher


def fetchers() -> dict[str, Fetcher]:
    """By URL scheme."""
    http = HttpFetcher()
    return {"http": http, "https": http, "hf": HubFetcher(), "s3": S3Fetcher()}
