"""From the sources on a command line to pieces of work.

a folder                            the pictures in it and below
a file with a picture's ending      itself, also behind a URL
.csv, .tsv, .txt                    a list of paths
.tar, .tar.gz, .tgz                 a webdataset shard, also behind a URL
.parquet, .pq                       a column of picture files' bytes, also behind a URL
.lance                              the same
a pattern with *, ?, [...]          what it matches, each by its ending; `**` stands for any folders
{0000..0012}, {train,val}           all of these, as in a shell
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from urllib.parse import urlsplit

from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.pictures import SUFFIXES
from dreamsim_guidance.retrieval.sources.files import folder_pictures, pieces_of_files, single_file
from dreamsim_guidance.retrieval.sources.lists import listed_pictures
from dreamsim_guidance.retrieval.sources.piece import Picture, Piece, PieceError
from dreamsim_guidance.retrieval.sources.remote import (
    container_name,
    file_system,
    is_url,
    remote_picture,
    stamp_of_container,
)
from dreamsim_guidance.retrieval.sources.shards import Shard
from dreamsim_guidance.retrieval.sources.tables import lance_piece, parquet_piece

__all__ = ["expanded", "list_pieces"]

_LISTS = (".csv", ".tsv", ".txt")
_SHARDS = (".tar", ".tar.gz", ".tgz")
_PARQUET = (".parquet", ".pq")
_BRACES = re.compile(r"\{([^{}]*)\}")
_PATTERN = re.compile(r"[*?\[]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_LONGEST = 200_000
"""Names that braces may expand to."""


def list_pieces(sources: Sequence[str], column: str | None = None, outside: bool = False) -> list[Piece]:
    """Return the pieces of work of all sources, in order; a file that several sources name occurs once.

    sources: see the top of this file.
    column: of tables and lists; by default chosen.
    outside: whether links in a folder and paths in a list may lead out of it; by default they are listed as broken.

    Raises FileNotFoundError for a missing source, OSError for one that cannot be read, ValueError for one of unknown kind,
    without pictures, or without a column of pictures.
    """
    pieces: list[Piece] = []
    seen: set[str] = set()
    for source in sources:
        if not source:
            raise ValueError("a source is empty; give '.' for the current folder.")
        listed = [item for name in expanded(source) for item in _listed(name, column, outside)]
        if not listed:
            raise ValueError(
                f"'{printable(source)}' holds no picture; give a folder of pictures ({' '.join(SUFFIXES)}), a pattern, shards, "
                "a Parquet or Lance table, or a list."
            )
        for are_pictures, group in groupby(listed, lambda item: isinstance(item, Picture)):
            if are_pictures:
                new = [item for item in group if isinstance(item, Picture) and item.path not in seen]
                seen.update(picture.path for picture in new)
                pieces += pieces_of_files(new)
            else:
                for piece in group:
                    if not isinstance(piece, Picture) and piece.container not in seen:
                        seen.add(str(piece.container))
                        pieces.append(piece)
    return pieces


def expanded(source: str) -> list[str]:
    """The names that the braces and patterns of a source stand for, in order; the source itself if it has none.

    Raises FileNotFoundError if a pattern matches nothing, ValueError if braces stand for too many names.
    """
    if not is_url(source) and os.path.lexists(source):
        return [source]
    names = _without_braces(source)
    return list(chain.from_iterable(_matches(name) if _is_pattern(name) else [name] for name in names))


def _is_pattern(name: str) -> bool:
    if name.lower().startswith(("http://", "https://")):
        name = name.partition("?")[0]  # what follows is no pattern
    return _PATTERN.search(name) is not None


def _without_braces(source: str) -> list[str]:
    names, finished = [source], False
    while not finished:
        finished = True
        expanded: list[str] = []
        for name in names:
            match = _BRACES.search(name)
            if match is None:
                expanded.append(name)
                continue
            finished = False
            if steps := _RANGE.fullmatch(match[1]):
                first, last = int(steps[1]), int(steps[2])
                if last - first >= _LONGEST:
                    raise ValueError(f"'{source}' stands for more than {_LONGEST} names; give fewer.")
                values: Sequence[str] = [f"{i:0{len(steps[1])}d}" for i in range(first, last + 1)]
            else:
                values = match[1].split(",")
            expanded += [name[: match.start()] + value + name[match.end() :] for value in values]
            if len(expanded) > _LONGEST:
                raise ValueError(f"'{source}' stands for more than {_LONGEST} names; give fewer.")
        names = expanded
    return names


def _matches(pattern: str) -> list[str]:
    if is_url(pattern):
        system, name = file_system(pattern)
        start = pattern[: pattern.index("://") + 3] + ("/" if ":///" in pattern else "")
        names = [match if is_url(match) else start + match.lstrip("/") for match in system.glob(name)]
    else:
        names = glob.glob(os.path.expanduser(pattern), recursive=True)
        names = [name for name in names if not os.path.isdir(name) or name.endswith(".lance")]
    if not names:
        raise FileNotFoundError(
            f"the pattern '{printable(pattern)}' matches no file; quote it, and look at its folder."
        )
    return sorted(names)


def _listed(source: str, column: str | None, outside: bool) -> Iterator[Picture | Piece]:
    lower = source.rstrip("/").lower()
    path = Path(source)
    if not is_url(source) and not os.path.lexists(path):
        raise FileNotFoundError(f"there is no file or folder '{printable(source)}'; look at its name.")
    if lower.endswith(_SHARDS) and not path.is_dir():
        yield Shard(_absolute(source), stamp_of_container(source))
    elif lower.endswith(_PARQUET):
        try:
            yield parquet_piece(_absolute(source), column)
        except PieceError as error:  # listed like a broken shard, so that one among many does not stop the others
            yield Picture(container_name(source), stamp_of_container(source), fault=str(error))
    elif lower.endswith(".lance"):
        yield lance_piece(_absolute(source), column)
    elif is_url(source) and urlsplit(source).path.lower().endswith(SUFFIXES):
        yield remote_picture(source)
    elif is_url(source):
        raise ValueError(
            f"'{printable(source)}' is a URL of unknown kind; behind URLs there may be pictures, shards "
            f"({', '.join(_SHARDS)}), Parquet files and Lance tables; of a folder give its pictures, as folder/*.png."
        )
    elif path.is_dir():
        yield from folder_pictures(path, outside)
    elif lower.endswith(_LISTS):
        yield from listed_pictures(path, column, outside)
    elif lower.endswith(SUFFIXES):
        yield single_file(Path(os.path.abspath(path)))
    else:
        raise ValueError(
            f"'{printable(source)}' is neither a folder nor a file of a known kind; known endings: "
            f"{' '.join([*SUFFIXES, *_LISTS, *_SHARDS, *_PARQUET, '.lance'])}."
        )


def _absolute(source: str) -> str:
    return source if is_url(source) else os.path.abspath(source)
