"""Weights from the Hugging Face hub, or a mirror of it (HF_ENDPOINT), through huggingface_hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from bastide.adapters.weights.http import HttpFetcher
from bastide.domain.errors import InvalidRequest, NotFound, Unavailable, Unsupported
from bastide.ports.weights import FetchProgress
from bastide.weights.fetching import Remote

_URL = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:/(?P<file>[^@]+))?(?:@(?P<revision>.+))?")
# Where a repository has several files and none is named: a good middle between size and quality first.
PREFERRED = ("q4_k_m", "q5_k_m", "q8_0", "q4_0", "f16")


class HubFetcher:
    """See weights.fetching.Fetcher. URLs are hf://ORG/REPO[/FILE][@REVISION]."""

    def __init__(self) -> None:
        self._http = HttpFetcher()
        self._found: dict[str, str] = {}  # hub URL -> plain URL of the file

    def look(self, url: str) -> Remote:
        match = _URL.fullmatch(url)
        if match is None:
            raise InvalidRequest(f"{url!r} must be hf://ORG/REPO[/FILE][@REVISION]")
        hub = _package()
        repo, revision = match["repo"], match["revision"]
        endpoint = os.environ.get("HF_ENDPOINT") or None  # the package itself reads it only when it is imported
        try:
            file = match["file"] or _choose(hub.HfApi(endpoint=endpoint).list_repo_files(repo, revision=revision), repo)
            plain = hub.hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
            meta = hub.get_hf_file_metadata(plain, token=os.environ.get("HF_TOKEN"), endpoint=endpoint)
        except (InvalidRequest, NotFound):
            raise
        except Exception as error:
            kind = type(error).__name__
            if "Gated" in kind:
                raise Unavailable(
                    f"{url} is given only to those who accepted its terms; accept them on the hub and set HF_TOKEN"
                ) from None
            if "NotFound" in kind and "Local" not in kind:  # LocalEntryNotFound: the hub can't be reached
                raise NotFound(f"the hub has no {url}: {str(error).splitlines()[0]}") from None
            raise Unavailable(f"the hub can't be asked for {url}: {kind}: {error}", retry_after_s=10.0) from None
        self._found[url] = meta.location or plain
        # For large files the hub's ETag is their SHA-256.
        digest = meta.etag if meta.etag and re.fullmatch(r"[0-9a-f]{64}", meta.etag) else None
        return Remote(meta.size, digest, meta.etag)

    def fetch(self, url: str, remote: Remote, partial: Path, progress: FetchProgress) -> None:
        self._http.fetch(self._found[url], Remote(remote.weights_bytes), partial, progress)


def _package() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise Unsupported("hf:// needs the package huggingface_hub; run: pip install 'bastide[hub]'") from None
    return huggingface_hub


def _choose(files: list[str], repo: str) -> str:
    weights = sorted(name for name in files if name.lower().endswith(".gguf"))
    if not weights:
        raise NotFound(f"hf://{repo} holds no GGUF file; llama.cpp needs one (or name a file: hf://{repo}/FILE.gguf)")
    for wanted in PREFERRED:
        for name in weights:
            if wanted in name.lower() and "-of-" not in name:
                return name
    return weights[0]
