"""Containers and pictures behind any URL that fsspec knows: their names, stamps and streams."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamsim_guidance.retrieval.extras import need
from dreamsim_guidance.retrieval.sources.piece import LARGEST, Picture, path_of, stamp_of, too_large

__all__ = [
    "container_name",
    "file_system",
    "is_url",
    "open_container",
    "remote_bytes",
    "remote_picture",
    "stamp_of_container",
]

_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems call the property that changes with the content."""


def is_url(source: str) -> bool:
    """Whether the source is a URL of fsspec, not a path on this machine."""
    return "://" in source


def container_name(source: str) -> str:
    """The name of a container in the index: a URL as it is, the absolute path of a file."""
    return source if is_url(source) else path_of(os.path.abspath(source))


def file_system(url: str) -> tuple[Any, str]:
    """The file system behind a URL, and the URL's name in it. Errors as `remote_picture`."""
    fsspec = need("fsspec")
    try:
        system, name = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ModuleNotFoundError(f"'{url}' needs another package ({error}); install it by pip.") from error
    except ValueError as error:
        raise ValueError(f"'{url}' cannot be opened ({error}); look at its protocol.") from error
    return system, name


def open_container(source: str) -> Any:
    """Open a file or URL as a stream of bytes. Raises OSError, and for a URL as `remote_picture`."""
    if not is_url(source):
        return Path(source).open("rb")
    system, name = file_system(source)
    with _named(source):
        return system.open(name, "rb")


def stamp_of_container(source: str) -> str:
    """The stamp of a file or URL; "" if its file system tells nothing that changes with the content.

    Raises OSError, and for a URL as `remote_picture`.
    """
    if not is_url(source):
        status = os.stat(source)
        return stamp_of(status.st_size, status.st_mtime_ns)
    return _stamp(_info(source))


def remote_picture(url: str) -> Picture:
    """The picture file behind a URL, which is not read yet.

    Raises FileNotFoundError if there is none, OSError if it cannot be reached, ValueError for an unknown protocol, and
    ModuleNotFoundError for one whose package is not installed.
    """
    info = _info(url)
    size = info.get("size") or 0
    return Picture(url, _stamp(info), file=url, fault=too_large(size) if size > LARGEST else None)


def remote_bytes(url: str) -> bytes:
    """The bytes behind a URL. Raises as `remote_picture`, and OSError for more than a picture file may have."""
    with open_container(url) as stream, _named(url):
        data: bytes = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(too_large(len(data)))
    return data


def _info(url: str) -> dict[str, Any]:
    system, name = file_system(url)
    with _named(url):
        info: dict[str, Any] = system.info(name)
        return info


def _stamp(info: dict[str, Any]) -> str:
    version = next((info[key] for key in _VERSIONS if info.get(key)), None)
    return "" if version is None else f"{info.get('size')} {version}"


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn what a file system raises, which may be errors of its own, into OSErrors that name the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no file '{url}', or its server cannot be reached; look at its name."
        ) from error
    except Exception as error:
        raise OSError(f"'{url}' cannot be read: {str(error) or type(error).__name__}") from error
