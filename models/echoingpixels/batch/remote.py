"""Clips at addresses: s3://, gs://, https:// and the other protocols of fsspec.

A fetched clip has a size limit, is stored in a temporary file, and is deleted after use.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError, MediaError

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
MOST = 8 << 30  # bytes of one clip
CHUNK = 8 << 20  # bytes
VERSION_KEYS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "LastModified", "Last-Modified", "mtime", "updated")


def is_remote(place: str) -> bool:
    """Whether a place is an address, not a path."""
    return ADDRESS.match(place) is not None


def remote_mark(address: str) -> str:
    """A mark of the content, from its store's metadata: size, ETag or checksum, time of change. Fetches no content."""
    system, path = _open(address)
    with _as_media_error(address):
        info = system.info(path)
    version = {name: str(info[name]) for name in VERSION_KEYS if info.get(name)}
    parts = ["" if version else address, info.get("size"), version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_remote(address: str, endings: frozenset[str]) -> list[str]:
    """The clips of a pattern or a folder; any other address as it is."""
    if not (address.endswith("/") or any(sign in address for sign in "*[")):
        return [address]
    system, path = _open(address)
    with _as_media_error(address):
        found = system.find(path) if address.endswith("/") else system.glob(path)
    clips = [one for one in found if PurePosixPath(one).suffix.lower()[1:] in endings]
    if not clips:
        raise MediaError(f"{address} holds no video or audio file.", "Check the address.")
    return sorted(system.unstrip_protocol(one) for one in clips)


@contextmanager
def fetched(address: str, most: int = MOST) -> Iterator[Path]:
    """A temporary local copy. MediaError if the fetch fails or the clip is larger than `most` bytes."""
    system, path = _open(address)
    with tempfile.TemporaryDirectory(prefix="ep-") as folder:
        copy = Path(folder) / ("clip" + PurePosixPath(path.split("?")[0]).suffix[:16])
        with copy.open("wb") as out, _as_media_error(address), system.open(path, "rb", block_size=CHUNK) as source:
            while data := source.read(CHUNK):
                if out.tell() + len(data) > most:
                    what = f"{address} is larger than {most / 2**30:.3g} GiB."
                    raise MediaError(what, "Fetch it yourself, and give the file.")
                out.write(data)
        yield copy


def _open(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it. DataError with the extra to install if one is missing."""
    extra = "Install it with `pip install 'echoingpixels[remote]'`."
    protocol = address.partition(":")[0]
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(address)
    except ImportError as error:
        raise DataError(f"{protocol}:// needs a package that is not there: {error}.", extra) from error
    except ValueError as error:
        raise DataError(f"{address} cannot be read: {error}.", "Known: s3://, gs://, http:// and https://.") from error
    return system, path


@contextmanager
def _as_media_error(address: str) -> Iterator[None]:
    """Raise errors of any file system as MediaError; the clients' errors share no class."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        reason = "no such file" if isinstance(error, FileNotFoundError) else text or type(error).__name__
        raise MediaError(
            f"{address} cannot be fetched: {reason}.", "Check the address, and your access to it."
        ) from error
