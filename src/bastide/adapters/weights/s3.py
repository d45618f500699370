"""Weights from S3 and stores that speak like it, through obstore. Credentials and endpoint as AWS_* variables say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bastide.domain.errors import InvalidRequest, NotFound, Unavailable, Unsupported
from bastide.ports.weights import FetchProgress
from bastide.weights.fetching import Remote

PART_BYTES = 8 * 2**20


class S3Fetcher:
    """See weights.fetching.Fetcher. URLs are s3://BUCKET/KEY."""

    def look(self, url: str) -> Remote:
        store, key = self._open(url)
        import obstore

        try:
            meta = obstore.head(store, key)
        except FileNotFoundError:
            raise NotFound(f"there is nothing at {url}") from None
        except Exception as error:
            raise Unavailable(f"{url} can't be reached: {error}", retry_after_s=10.0) from None
        return Remote(int(meta["size"]), None, str(meta["e_tag"]) if meta.get("e_tag") else None)

    def fetch(self, url: str, remote: Remote, partial: Path, progress: FetchProgress) -> None:
        store, key = self._open(url)
        import obstore

        total = remote.weights_bytes or 0
        with open(partial, "ab") as file:
            done = file.tell()
            while done < total:
                try:
                    span = (done, min(total, done + PART_BYTES))
                    # Parts of two versions must never be mixed: a changed object is refused.
                    options: Any = {"range": span, **({"if_match": remote.tag} if remote.tag else {})}
                    part = bytes(obstore.get(store, key, options=options).bytes())
                    if not part:
                        raise OSError("an empty part came")
                except Exception as error:
                    raise Unavailable(
                        f"{url} broke off ({error}); the next try goes on from there", retry_after_s=5.0
                    ) from None
                file.write(part)
                done += len(part)
                progress(done, total)

    def _open(self, url: str) -> tuple[Any, str]:
        bucket, _, key = url.removeprefix("s3://").partition("/")
        if not bucket or not key:
            raise InvalidRequest(f"{url!r} must be s3://BUCKET/KEY")
        try:
            from obstore.store import S3Store
        except ImportError:
            raise Unsupported("s3:// needs the package obstore; run: pip install 'bastide[hub]'") from None
        plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
        options: dict[str, Any] = {"client_options": {"allow_http": True}} if plain else {}
        return S3Store(bucket, **options), key
