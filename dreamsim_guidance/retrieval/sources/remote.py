"""Containers behind any URL that fsspec knows: their names, stamps and streams."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dreamsim_guidance.retrieval.extras import need
from dreamsim_guidance.retrieval.sources.piece import path_of, stamp_of

__all__ = ["container_name", "is_url", "open_container", "stamp_of_container"]

_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems call the property that changes with the content."""


def is_url(source: str) -> bool:
    """Whether the source is a URL of fsspec, not a path on this machine."""
    return "://" in source


def container_name(source: str) -> str:
    """The name of a container in the index: a URL as it is, the absolute path of a file."""
    return source if is_url(source) else path_of(os.path.abspath(source))


def open_container(source: str) -> Any:
    """Open a file or URL as a stream of bytes. Raises OSError."""
    if not is_url(source):
        return Path(source).open("rb")
    return need("fsspec").open(source, "rb").open()


def stamp_of_container(source: str) -> str:
    """The stamp of a file or URL; "" if its file system tells nothing that changes with the content. Raises OSError."""
    if not is_url(source):
        status = os.stat(source)
        return stamp_of(status.st_size, status.st_mtime_ns)
    system, name = need("fsspec").core.url_to_fs(source)
    info: dict[str, Any] = system.info(name)
    version = next((info[key] for key in _VERSIONS if info.get(key)), None)
    return "" if version is None else f"{info.get('size')} {version}"
